"""How long each stage takes on this machine, measured while it runs."""

from __future__ import annotations

from collections import Counter, deque

import numpy as np

PASSES, KEPT = 50, 10


class LatencyModel:
    """Keeps the newest durations of each stage; a stage is any hashable name."""

    def __init__(self, window: int = 256) -> None:
        self._window = window
        self._durations: dict[object, deque[int]] = {}
        self._passed: Counter[object] = Counter()

    def record(self, stage: object, duration_ns: int) -> None:
        """Take in one duration [ns]."""
        self._durations.setdefault(stage, deque(maxlen=self._window)).append(duration_ns)

    def p99_ns(self, stage: object) -> float:
        """Return the 99th percentile [ns]; 0 for a stage that was never measured."""
        durations = self._durations.get(stage)
        return float(np.percentile(durations, 99)) if durations else 0.0

    def pass_over(self, stage: object) -> None:
        """Note that a stage was not run because it is too slow.

        What is not run is not measured, so one hiccup would exclude it for ever: of every
        `PASSES` passes one drops the longest duration, but never one of the last `KEPT`, so that a
        stage that is slow in earnest stays excluded.
        """
        self._passed[stage] += 1
        durations = self._durations.get(stage, deque())
        if self._passed[stage] % PASSES == 0 and len(durations) > KEPT:
            durations.remove(max(durations))

    def clear(self) -> None:
        """Forget everything, as after warm-up."""
        self._durations.clear()


def choose_steps(allowed: tuple[int, ...], model: LatencyModel, left_ns: float) -> int:
    """Return the most steps whose p99 fits into what is left; the fewest when none fits."""
    fitting = [n for n in allowed if model.p99_ns(n) <= left_ns]
    return max(fitting) if fitting else min(allowed)
