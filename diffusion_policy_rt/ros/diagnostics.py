"""Ticks and frames to /diagnostics: what happened in the last seconds, judged by thresholds."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from diffusion_policy_rt.runtime.trace import Rung, Tick, percentiles

OK, WARN, ERROR = 0, 1, 2
FEWEST_GAPS, MOST_LOST = 20, 0.1
"""Messages after which loss is told, and the share above which it is a warning."""
CURE = 'give the middleware larger buffers (config/fastdds.xml), or send compressed images'
STAGES = ('stamp_to_publish_s', 'plan_s', 'encode_s', 'denoise_s')


@dataclass(frozen=True)
class Status:
    """One line of a diagnostics display."""

    task: str
    level: int
    message: str
    values: Mapping[str, object]


@dataclass
class Source:
    """What was received from one input."""

    count: int = 0
    """Messages since the start."""
    arrivals: deque[int] = field(default_factory=lambda: deque(maxlen=10_000))
    """Times of arrival [ns]."""
    form: str = ''
    """Size and encoding as received."""
    stamps: deque[int] = field(default_factory=lambda: deque(maxlen=256))
    """Stamps of the newest messages [ns]."""

    def loss(self) -> float:
        """Return the share of messages that did not arrive, as their stamps tell.

        A gap of n of the stream's shortest intervals (their 10th percentile) is n - 1 messages.
        NaN while there are too few.
        """
        gaps = np.diff(list(self.stamps))
        gaps = gaps[gaps > 0]
        if len(gaps) < FEWEST_GAPS:
            return math.nan
        # 0.4, not 0.5: a jitter of a fifth makes gaps of one and a half shortest ones
        lost = np.sum(np.floor(gaps / np.percentile(gaps, 10) + 0.4) - 1)
        return float(lost / (lost + len(gaps)))

    def rate(self, now_ns: int, window_ns: int) -> float:
        """Return messages per second over the window [Hz]."""
        while self.arrivals and self.arrivals[0] < now_ns - window_ns:
            self.arrivals.popleft()
        span = now_ns - self.arrivals[0] if self.arrivals else 0
        return (len(self.arrivals) - 1) * 1e9 / span if span > 0 else 0.0


class Monitor:
    """Collects what one node did in the last `window_ns`."""

    def __init__(self, window_ns: int, thresholds: Mapping[str, tuple[float, float]],
                 lookups_per_plan: int) -> None:
        self._window_ns, self._thresholds = window_ns, thresholds
        self._lookups = lookups_per_plan
        self._ticks: deque[tuple[int, Tick]] = deque(maxlen=100_000)
        self.sources: dict[str, Source] = {}

    def tick(self, now_ns: int, tick: Tick) -> None:
        """Take in a tick."""
        self._ticks.append((now_ns, tick))

    def received(self, source: str, now_ns: int, form: str = '',
                 stamp_ns: int | None = None) -> None:
        """Take in that a message came, with its own stamp where it has one."""
        entry = self.sources.setdefault(source, Source())
        entry.count += 1
        entry.arrivals.append(now_ns)
        entry.form = form
        if stamp_ns:
            entry.stamps.append(stamp_ns)

    def clear(self) -> None:
        """Forget the ticks, as at a new start."""
        self._ticks.clear()

    def statuses(self, now_ns: int, running: bool, dropped: Mapping[str, int],
                 reason: str = '',
                 faults: Mapping[str, Mapping[str, int]] | None = None,
                 plans: Mapping[str, object] | None = None) -> list[Status]:
        """Return the lines: ticks, then one per input of `dropped` messages, with its `faults`.

        `plans` are figures of plans since the start.
        """
        while self._ticks and self._ticks[0][0] < now_ns - self._window_ns:
            self._ticks.popleft()
        ticks = [tick for _, tick in list(self._ticks)]  # a copy at once: more may come meanwhile
        return [self._loop(ticks, running, reason, plans or {}),
                *(self._source(name, now_ns, {'dropped': count, **(faults or {}).get(name, {})},
                               running) for name, count in dropped.items())]

    def _loop(self, ticks: Sequence[Tick], running: bool, reason: str,
              plans: Mapping[str, object]) -> Status:
        values = {**figures(ticks, self._lookups), **plans}
        if not running:
            return Status('loop', OK, 'not running', values)
        if not ticks:
            return Status('loop', ERROR, 'no tick in the last seconds', values)
        level, text = max((self._judge(name, values[name]) for name in self._thresholds),
                          key=lambda judged: judged[0])
        return Status('loop', level, '; '.join(filter(None, (text, reason))) or 'running', values)

    def _judge(self, name: str, value: Any) -> tuple[int, str]:
        warn, error = self._thresholds[name]
        level = ERROR if value > error else WARN if value > warn else OK
        return level, f'{name} is {value:.3g}' if level else ''

    def _source(self, name: str, now_ns: int, faults: Mapping[str, int],
                running: bool) -> Status:
        source = self.sources.get(name, Source())
        rate = source.rate(now_ns, self._window_ns)
        silent = not source.arrivals
        age = math.nan if silent else (now_ns - source.arrivals[-1]) / 1e9
        told = ', '.join(f'{count} {kind}' for kind, count in faults.items() if count)
        loss = source.loss()
        if loss > MOST_LOST:
            told = '; '.join(filter(None, (told, f'{loss:.0%} lost on the way; {CURE}')))
        level = ERROR if silent and running else WARN if told else OK
        text = 'no message' if silent else told or 'received'
        return Status(name, level, text, {
            'received': source.count, 'rate_hz': rate, 'since_last_s': age,
            'received_as': source.form, 'loss_ratio': loss, **faults})


def figures(ticks: Sequence[Tick], lookups_per_plan: int) -> dict[str, object]:
    """Return the figures of some ticks: ratios, counts by rung, percentiles by stage [s]."""
    count = len(ticks) or 1
    rungs = Counter(tick.rung for tick in ticks)
    ages = percentiles(t.observation_age_s for t in ticks)
    lookups = lookups_per_plan * sum(math.isfinite(tick.plan_s) for tick in ticks)
    values: dict[str, object] = {
        'ticks': len(ticks),
        'miss_ratio': sum(tick.missed for tick in ticks) / count,
        'fallback_ratio': (rungs[Rung.HOLD] + rungs[Rung.STOP]) / count,
        'cache_hit_ratio': sum(t.cache_hits for t in ticks) / lookups if lookups else math.nan,
        'observation_age': ages['max'] if ages['max'] is not None else math.nan,
        'camera_skew': percentiles(t.camera_skew_s for t in ticks)['max'],
        **{f'rung.{rung.name.lower()}': rungs[rung] for rung in Rung}}
    for stage in STAGES:
        for name, value in percentiles(getattr(t, stage) for t in ticks).items():
            values[f'{stage}.{name}'] = value
    return values


def to_message(node: str, hardware_id: str, statuses: Sequence[Status],
               stamp: Time) -> DiagnosticArray:
    """Return the message; absent figures are empty strings."""
    msg = DiagnosticArray()
    msg.header.stamp = stamp
    msg.status = [DiagnosticStatus(
        level=bytes([status.level]), name=f'{node}: {status.task}', message=status.message,
        hardware_id=hardware_id,
        values=[KeyValue(key=key, value=_text(value)) for key, value in status.values.items()])
        for status in statuses]
    return msg


def _text(value: object) -> str:
    if isinstance(value, float):
        return f'{value:.6g}' if math.isfinite(value) else ''
    return '' if value is None else str(value)
