"""What many ticks of a soak amount to, and what may not be among it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from diffusion_policy_rt.runtime.trace import Rung, Tick, percentiles, summarise

EDGES_MS = (0.1, 0.2, 0.5, 1, 2, 3, 5, 10, 15, 20, 50, 100, 1000)
"""Edges of the histograms [ms]."""
MOST_GROWTH = 32 << 20
"""Growth of the node's memory above which it leaks [bytes]."""
MOST_TOLD = 20
"""Missed ticks that are told one by one."""
SETTLE = 0.2
"""Share of the run after which memory should no longer grow."""


def lateness(ticks: Iterable[Tick], deadline_s: float) -> list[float]:
    """Return how long after its scheduled instant each tick's action left [s]."""
    return [deadline_s - tick.slack_s for tick in ticks if tick.rung != Rung.STOP]


def spread(seconds: Iterable[float]) -> dict[str, float | None]:
    """Return p50, p95, p99, p99.9 and max of the finite values; None where there are none."""
    finite = [value for value in seconds if math.isfinite(value)]
    figures = percentiles(finite)
    rare = float(np.percentile(finite, 99.9)) if finite else None
    return {**figures, 'p99.9': rare, 'max': figures['max']}


def histogram(seconds: Iterable[float]) -> dict[str, int]:
    """Return counts by upper edge; `more` counts what lies above the last."""
    edges = np.array([0, *EDGES_MS, math.inf])
    counts, _ = np.histogram(1e3 * np.maximum([s for s in seconds if math.isfinite(s)], 0), edges)
    return {f'{e:g} ms': int(n) for e, n in zip(EDGES_MS, counts)} | {'more': int(counts[-1])}


def unaccounted(ticks: Iterable[Tick]) -> int:
    """Return how many tick numbers are missing; they count from 0 after each start."""
    pairs = itertools.pairwise(tick.tick for tick in ticks)
    return sum(after - before - 1 for before, after in pairs if after > before)


def timings(ticks: Sequence[Tick], deadline_s: float) -> dict[str, Any]:
    """Return the lateness of all actions, and of those of ticks that planned nothing."""
    row: dict[str, Any] = {'missed_ticks': misses(ticks, deadline_s)}
    for name, some in (('all', ticks), ('chunk', [t for t in ticks if t.rung == Rung.CHUNK])):
        late = lateness(some, deadline_s)
        row |= {f'lateness_{name}_s': spread(late), f'lateness_{name}_histogram': histogram(late)}
    return row


def misses(ticks: Iterable[Tick], deadline_s: float) -> list[dict[str, Any]]:
    """Return the first `MOST_TOLD` missed ticks: number, lateness [s], rung, time of the plan [s].

    A STOP among them is a period in which the machine did not let the node tick.
    """
    missed = (tick for tick in ticks if tick.missed)
    return [{'tick': tick.tick, 'lateness_s': deadline_s - tick.slack_s,
             'rung': tick.rung.name.lower(), 'plan_s': tick.plan_s if tick.plan_s > 0 else None}
            for tick in itertools.islice(missed, MOST_TOLD)]


def counts(ticks: Sequence[Tick]) -> dict[str, Any]:
    """Return what ticks were, how many are missing, and how old what they sent was."""
    ages = [tick.stamp_to_publish_s for tick in ticks]
    return {**summarise(ticks), 'stamp_to_publish_s': spread(ages), 'unaccounted':
            unaccounted(ticks), 'stamp_to_publish_histogram': histogram(ages)}


def growth(memory: Sequence[int]) -> dict[str, int]:
    """Return the last of the sizes [bytes], and how much more they are than once they had settled.

    Images that wait for a plan come and go, so medians of the first and last quarter are compared.
    """
    settled = memory[math.floor(SETTLE * len(memory)):] or [0]
    quarter = max(1, len(settled) // 4)
    grown = np.median(settled[-quarter:]) - np.median(settled[:quarter])
    return {'resident_bytes': settled[-1], 'growth_bytes': int(grown)}


def verdict(row: dict[str, Any]) -> list[str]:
    """Return what may not be, in words; [] when all is well."""
    rules = [
        (bool(row['ended']), str(row['ended'])),
        (bool(row['wild_actions']), f'{row["wild_actions"]} actions were not finite or out of '
         f'bounds, the first {row["first_wild"]}'),
        (bool(row['unaccounted']), f'{row["unaccounted"]} ticks were not told'),
        (row['recovered'] is False and not row['ended'], 'no plan of a sound robot in the end'),
        (row['growth_bytes'] > MOST_GROWTH, f'memory grew by {row["growth_bytes"] >> 20} MiB')]
    return [told for broken, told in rules if broken]
