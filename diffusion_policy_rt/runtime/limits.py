"""Bounds on what is published, per action, against the measured state."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Limits:
    """Positions [unit] and their rate of change [unit/s] per action; infinite where unbounded."""

    low: np.ndarray
    high: np.ndarray
    rate: np.ndarray

    @classmethod
    def none(cls, size: int) -> Limits:
        """Return limits that bound nothing."""
        return cls(np.full(size, -np.inf), np.full(size, np.inf), np.full(size, np.inf))

    def apply(self, actions: np.ndarray, measured: np.ndarray | None, step_s: float,
              first_s: float | None = None) -> np.ndarray:
        """Return actions [K, A] within the limits.

        The first may differ from `measured` [A] by at most rate x `first_s` (`step_s` where it is
        not given), and each from the one before it by at most rate x `step_s`. Entries of
        `measured` that are not measured are NaN and bound nothing.
        """
        bounded = np.clip(actions, self.low, self.high)
        if not np.isfinite(self.rate).any():
            return bounded
        reach = self.rate * (step_s if first_s is None else first_s)
        last = np.full(actions.shape[-1], np.nan) if measured is None else measured
        for row in bounded:
            known = np.isfinite(last)
            row[known] = np.clip(row, last - reach, last + reach)[known]
            last, reach = row, self.rate * step_s
        return bounded
