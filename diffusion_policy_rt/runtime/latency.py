"""How long each stage takes on this machine, measured while it runs."""

from __future__ import annotations

import bisect
from collections import Counter, deque

PASSES, KEPT = 50, 10


class Durations:
    """The newest durations of one stage [ns], and their 99th percentile at no cost to who asks."""

    def __init__(self, window: int) -> None:
        self._newest: deque[int] = deque()
        self._sorted: list[int] = []
        self._window = window
        self.p99_ns = 0.0

    def __len__(self) -> int:
        return len(self._sorted)

    def push(self, duration_ns: int) -> None:
        """Take in one duration [ns]."""
        if len(self._newest) == self._window:
            del self._sorted[bisect.bisect_left(self._sorted, self._newest.popleft())]
        self._newest.append(duration_ns)
        bisect.insort(self._sorted, duration_ns)
        self._measure()

    def drop_longest(self) -> None:
        """Forget the longest duration."""
        self._newest.remove(self._sorted.pop())
        self._measure()

    def _measure(self) -> None:
        """Interpolate as `numpy.percentile` does."""
        at, last = 0.99 * (len(self._sorted) - 1), len(self._sorted) - 1
        low, high = self._sorted[int(at)], self._sorted[min(int(at) + 1, last)]
        share = at - int(at)
        self.p99_ns = float(low + (high - low) * share if share < 0.5
                            else high - (high - low) * (1 - share))


class LatencyModel:
    """Keeps the newest durations of each stage; a stage is any hashable name."""

    def __init__(self, window: int = 256) -> None:
        self._window = window
        self._stages: dict[object, Durations] = {}
        self._passed: Counter[object] = Counter()

    def record(self, stage: object, duration_ns: int) -> None:
        """Take in one duration [ns]; each stage is recorded by one thread."""
        if stage not in self._stages:
            self._stages[stage] = Durations(self._window)
        self._stages[stage].push(duration_ns)

    def p99_ns(self, stage: object) -> float:
        """Return the 99th percentile [ns]; 0 for a stage that was never measured."""
        durations = self._stages.get(stage)
        return durations.p99_ns if durations else 0.0

    def pass_over(self, stage: object) -> None:
        """Note that a stage was not run because it is too slow.

        What is not run is not measured, so one hiccup would exclude it for ever: of every
        `PASSES` passes one drops the longest duration, but never one of the last `KEPT`, so that a
        stage that is slow in earnest stays excluded.
        """
        self._passed[stage] += 1
        durations = self._stages.get(stage)
        if self._passed[stage] % PASSES == 0 and durations and len(durations) > KEPT:
            durations.drop_longest()

    def clear(self) -> None:
        """Forget everything, as after warm-up."""
        self._stages.clear()


def choose_steps(allowed: tuple[int, ...], model: LatencyModel, left_ns: float) -> int:
    """Return the most steps whose p99 fits into what is left; the fewest when none fits."""
    fitting = [n for n in allowed if model.p99_ns(n) <= left_ns]
    return max(fitting) if fitting else min(allowed)
