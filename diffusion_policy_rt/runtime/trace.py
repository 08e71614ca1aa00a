"""The record of each tick, and what many of them amount to."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, TextIO

import numpy as np


class Rung(IntEnum):
    """What a tick's action came from, best first."""

    FRESH = 0
    """A plan of this tick, with the step count asked for."""
    FEWER = 1
    """A plan of this tick, with fewer steps."""
    CACHED = 2
    """A plan of this tick from latents of an earlier frame."""
    CHUNK = 3
    """The rest of the last chunk."""
    HOLD = 4
    """The robot is kept where it is."""
    STOP = 5
    """Nothing is published."""


@dataclass(frozen=True)
class Tick:
    """One control period. The fields are those of the `~/timing` topic, in its order.

    Durations are in seconds; NaN where a tick has none (no plan, no observation).
    """

    tick: int
    stamp_to_publish_s: float
    """From the newest frame's stamp to the publication of the action planned from it."""
    plan_s: float
    encode_s: float
    denoise_s: float
    slack_s: float
    """What was left of the deadline when the action left; negative when it was missed."""
    steps: int
    rung: Rung
    cache_hits: int
    observation_age_s: float
    """Age of the newest frame when the tick began."""
    camera_skew_s: float
    missed: bool

    def values(self) -> list[float]:
        """Return the fields as floats, in order."""
        return [float(getattr(self, name)) for name in FIELDS]


FIELDS: tuple[str, ...] = tuple(f.name for f in dataclasses.fields(Tick))


def percentiles(values: Iterable[float]) -> dict[str, float | None]:
    """Return p50, p95, p99 and max of the finite values; None where there are none."""
    finite = np.array([v for v in values if math.isfinite(v)])
    if not len(finite):
        return dict.fromkeys(('p50', 'p95', 'p99', 'max'))
    p50, p95, p99 = np.percentile(finite, (50, 95, 99))
    return {'p50': p50, 'p95': p95, 'p99': p99, 'max': float(finite.max())}


def summarise(ticks: Sequence[Tick]) -> dict[str, Any]:
    """Return the counts and percentiles that commands report."""
    counts = Counter(tick.rung for tick in ticks)
    return {
        'ticks': len(ticks),
        'missed': sum(tick.missed for tick in ticks),
        'rungs': {rung.name.lower(): counts[rung] for rung in Rung},
        **{name: percentiles(getattr(tick, name) for tick in ticks)
           for name in ('stamp_to_publish_s', 'plan_s', 'encode_s', 'denoise_s')},
    }


def write_lines(ticks: Iterable[Tick], file: TextIO) -> None:
    """Write one JSON object per tick; absent durations become null."""
    for tick in ticks:
        values = {name: v if math.isfinite(v) else None for name, v in zip(FIELDS, tick.values())}
        file.write(json.dumps(values | {'rung': tick.rung.name.lower()}) + '\n')


def read_values(values: Sequence[float]) -> Tick:
    """Undo `Tick.values`."""
    fields = dict(zip(FIELDS, values, strict=True))
    kinds: dict[str, Callable[[float], Any]] = {
        'tick': int, 'steps': int, 'cache_hits': int, 'missed': bool,
        'rung': lambda v: Rung(int(v))}
    return Tick(**{name: kinds.get(name, float)(v) for name, v in fields.items()})
