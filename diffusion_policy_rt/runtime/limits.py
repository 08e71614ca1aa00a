"""Bounds on what is published, per action, against the measured state."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from diffusion_policy_rt.runtime.course import Course
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

    @cached_property
    def rated(self) -> bool:
        """Whether the rate of any action is bounded."""
        return bool(np.isfinite(self.rate).any())

    @property
    def steered(self) -> np.ndarray:
        """Whether the acceleration of each action is bounded, [A]."""
        return np.isfinite(np.full(len(self.low), np.inf) if self.acceleration is None
                           else self.acceleration)

    def course(self, actions: np.ndarray, step_s: float) -> Course:
        """Return the way of actions [H, A], one every `step_s`, within positions and rates."""
        return Course(actions, self.low, self.high, self.rate if self.rated else None, step_s)

    def beyond(self, actions: np.ndarray) -> np.ndarray:
        """Return which of the actions [K, A] leave the positions, but for rounding, bool [A].

        Where the measured state is further out than the rate can bring back, they do.
        """
        if ((actions >= self.low) & (actions <= self.high)).all():
            return np.zeros(len(self.low), bool)
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

    def note(self, clipped: bool) -> None:
        """Take in whether what was sent is not what was due."""
        self.count += clipped
        self._newest.append(clipped)

    def figures(self) -> dict[str, object]:
        """Return the count since the start, and the share of the newest actions."""
        newest = list(self._newest)
        return {'limits.clipped': self.count, 'limits.outside': self.outside,
                'limits.clip_ratio': sum(newest) / len(newest) if newest else None}
