"""The way of a chunk within the limits: what it decides alone is computed once, not per tick.

Positions bound each action by itself. Rates bound it by the one before, and the first by where the
robot is. So after an action that the rate leaves as it is, all are left that keep the rate among
themselves, and the rest of a chunk is mostly that.
"""

from __future__ import annotations

import numpy as np


class Course:
    """Actions [H, A] in units, one every `step_s`, within positions [A] and rates [A] [unit/s]."""

    def __init__(self, actions: np.ndarray, low: np.ndarray, high: np.ndarray,
                 rate: np.ndarray | None, step_s: float) -> None:
        """Take finite actions, and bounds: infinite where there are none; None bounds no rate."""
        self.due = actions.astype(float)
        """float64 [H, A], as they were planned."""
        self.placed = np.clip(self.due, low, high)
        """float64 [H, A], within the positions alone."""
        self.moved = (self.placed != self.due).any(1).tolist()
        """Whether that changed each of them, [H]."""
        for it in (self.due, self.placed):
            it.setflags(write=False)
        self._rate, self._step_s = rate, step_s
        self._even = 0 if rate is None else self._even_from(rate * step_s)

    def _even_from(self, reach: np.ndarray) -> int:
        """Return from which action on each is nearer than `reach` [A] to the one before it."""
        last, these = self.placed[:-1], self.placed[1:]
        far = np.flatnonzero(~((last - reach < these) & (these < last + reach)).all(1))
        return int(far[-1]) + 1 if len(far) else 0

    def keeps_rate(self, first: int, at: np.ndarray, first_s: float) -> bool:
        """Whether `rest` leaves all from `first` on as placed; True only where that is sure."""
        if self._rate is None:
            return True
        row, reach = self.placed[first], self._rate * first_s
        return first >= self._even and not bool(
            ((row <= at - reach) | (at + reach <= row)).any())

    def rest(self, first: int, end: int, at: np.ndarray, first_s: float) -> np.ndarray:
        """Return the actions `first` to `end` within positions and rates, float64 [K, A].

        The first may differ from `at` [A] by at most rate x `first_s`, and each from the one
        before it by at most rate x step. Entries of `at` that are not finite (not measured) bound
        nothing.
        """
        rows = self.placed[first:end]
        if self._rate is None or not len(rows):
            return rows
        rows, reach = rows.copy(), self._rate * first_s
        last = np.where(np.isfinite(at), at, rows[0])
        for k, row in enumerate(rows, first):
            np.clip(row, last - reach, last + reach, out=row)
            if k >= self._even and (row == self.placed[k]).all():
                break
            last, reach = row, self._rate * self._step_s
        return rows
