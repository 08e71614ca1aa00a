"""How positions move: what they were last told, from which their acceleration is bounded."""

from __future__ import annotations

from collections import deque

import numpy as np

from diffusion_policy_rt.runtime.limits import Limits

MOVES = 0.1
"""Share of the velocity told at which a robot counts as moving at all."""
PARTS = 8
"""Positions that are kept of the time over which a velocity is measured."""
SLACK_NS = 1000
"""By how much a step may be over and still count as under way [ns]."""


class Motion:
    """Keeps accelerations within the limits, from one tick to the next.

    The velocity that counts is the one told: with the measured one, a drive that lags behind would
    slow itself down. But an action that is measured not to move along (a drive that is switched
    off, a dry run) is at rest. One thread ticks, another measures.
    """

    def __init__(self, limits: Limits, step_s: float) -> None:
        self._some, self._step_s = limits.steered, step_s
        self.bounds = bool(self._some.any())
        """Whether the acceleration of any action is bounded."""
        self._steering = limits.steering(step_s) if self.bounds else None
        self.clear()

    def clear(self) -> None:
        """Begin at rest."""
        self._told: tuple[int, np.ndarray] | None = None
        self._places: deque[tuple[int, np.ndarray]] = deque()
        self._moved = np.full(len(self._some), np.nan)

    def measure(self, stamp_ns: int, at: np.ndarray, span_ns: int) -> None:
        """Take in a measured position [A]; the velocity is that over `span_ns` or some more."""
        places = self._places
        if places and stamp_ns < places[-1][0]:  # another clock
            self._moved = np.full(len(self._some), np.nan)
            places.clear()
        if not places or stamp_ns - places[-1][0] >= span_ns // PARTS:
            places.append((stamp_ns, at))
        while len(places) > 2 and stamp_ns - places[1][0] >= span_ns:
            places.popleft()
        since, from_ = stamp_ns - places[0][0], places[0][1]
        if since >= span_ns:
            self._moved = (at - from_) / since * 1e9

    def follow(self, rows: np.ndarray, due: np.ndarray, before: np.ndarray, at: np.ndarray,
               now_ns: int, period_s: float) -> np.ndarray:
        """Return `rows` [K, A], bounded in position and rate, bounded in acceleration too.

        They are to follow what is `due` [K, A] and was `before` [A], from the measured position
        `at` [A] on.
        """
        if self._steering is None:
            return rows
        some, rows = self._some, rows.copy()
        rows[:, some] = self._steering.follow(due[:, some], before[some], at[some],
                                              self._velocity(now_ns)[some],
                                              min(period_s, self._step_s))
        self._note(now_ns, at, rows)
        return rows

    def brake(self, row: np.ndarray, now_ns: int, period_s: float, told: bool) -> np.ndarray:
        """Return the way from `row` [A] to rest, [K, A]; `told` where a tick sends it."""
        if self._steering is None:
            return row[None]
        some = self._some
        way = self._steering.brake(row[some], self._velocity(now_ns)[some],
                                   min(period_s, self._step_s))
        rows = np.repeat(row[None], len(way), axis=0)
        rows[:, some] = way
        if told:
            self._note(now_ns, row, rows)
        return rows

    def _note(self, now_ns: int, at: np.ndarray, rows: np.ndarray) -> None:
        self._told = now_ns, np.diff(np.vstack((at, rows)), axis=0) / self._step_s

    def _velocity(self, now_ns: int) -> np.ndarray:
        """Return the velocity [A] that is being executed; zero where nothing is."""
        told, rest = self._told, np.zeros(len(self._some))
        if told is None:
            return rest
        step = max(0, int((now_ns - told[0] - SLACK_NS) / 1e9 // self._step_s))
        velocity = told[1][step] if step < len(told[1]) else rest
        return np.where(self._moved * velocity < MOVES * velocity ** 2, rest, velocity)
