"""Bounds on what is published, per action, against the measured state."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from diffusion_policy_rt.runtime.steering import Steering

KEPT = 1000
"""Actions that the share of limited ones is of."""


@dataclass(frozen=True)
class Limits:
    """Positions [unit], their rate [unit/s], its change [unit/s^2]; infinite where unbounded."""

    low: np.ndarray
    high: np.ndarray
    rate: np.ndarray
    acceleration: np.ndarray | None = None
    """Of positions; None bounds none."""

    @classmethod
    def none(cls, size: int) -> Limits:
        """Return limits that bound nothing."""
        return cls(np.full(size, -np.inf), np.full(size, np.inf), np.full(size, np.inf))

    @property
    def steered(self) -> np.ndarray:
        """Whether the acceleration of each action is bounded, [A]."""
        return np.isfinite(np.full(len(self.low), np.inf) if self.acceleration is None
                           else self.acceleration)

    def apply(self, actions: np.ndarray, measured: np.ndarray | None, step_s: float,
              first_s: float | None = None) -> np.ndarray:
        """Return actions [K, A] within the limits of position and rate.

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

    def beyond(self, actions: np.ndarray) -> np.ndarray:
        """Return which of the actions [K, A] leave the positions, but for rounding, bool [A].

        Where the measured state is further out than the rate can bring back, they do.
        """
        slack = 1e-9 * np.maximum(1.0, np.abs(actions))
        return ~((actions >= self.low - slack) & (actions <= self.high + slack)).all(0)

    def steering(self, step_s: float) -> Steering:
        """Return what moves the actions that are `steered` in steps of `step_s`."""
        some = self.steered
        assert self.acceleration is not None
        return Steering(self.low[some], self.high[some], self.rate[some],
                        self.acceleration[some], step_s)


class Clips:
    """How often the limits changed what was due: often means a policy that knows no way here."""

    def __init__(self) -> None:
        self.count = 0
        self.outside = 0
        """Actions that no limit could bring within the positions, and that were dropped."""
        self.which: list[str] = []
        """Whose values were out, in the last of them."""
        self._newest: deque[bool] = deque(maxlen=KEPT)

    def note(self, due: np.ndarray, sent: np.ndarray) -> None:
        """Take in the action that was due and the one that was sent for it, [A]."""
        clipped = not np.array_equal(due, sent)
        self.count += clipped
        self._newest.append(clipped)

    def figures(self) -> dict[str, object]:
        """Return the count since the start, and the share of the newest actions."""
        newest = list(self._newest)
        return {'limits.clipped': self.count, 'limits.outside': self.outside,
                'limits.clip_ratio': sum(newest) / len(newest) if newest else None}
