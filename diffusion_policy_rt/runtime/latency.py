"""How long each stage takes on this machine, measured while it runs."""

from __future__ import annotations

from collections import deque

import numpy as np


class LatencyModel:
    """Keeps the newest durations of each stage; a stage is any hashable name."""

    def __init__(self, window: int = 256) -> None:
        self._window = window
        self._durations: dict[object, deque[int]] = {}

    def record(self, stage: object, duration_ns: int) -> None:
        """Take in one duration [ns]."""
        self._durations.setdefault(stage, deque(maxlen=self._window)).append(duration_ns)

    def p99_ns(self, stage: object) -> float:
        """Return the 99th percentile [ns]; 0 for a stage that was never measured."""
        durations = self._durations.get(stage)
        return float(np.percentile(durations, 99)) if durations else 0.0

    def forget_worst(self, stage: object) -> None:
        """Drop the longest duration of a stage that was passed over.

        A stage that is not run is not measured either; so one hiccup would exclude it for ever.
        """
        durations = self._durations.get(stage)
        if durations:
            durations.remove(max(durations))

    def clear(self) -> None:
        """Forget everything, as after warm-up."""
        self._durations.clear()


def choose_steps(allowed: tuple[int, ...], model: LatencyModel, left_ns: float) -> int:
    """Return the most steps whose p99 fits into what is left; the fewest when none fits."""
    fitting = [n for n in allowed if model.p99_ns(n) <= left_ns]
    return max(fitting) if fitting else min(allowed)
