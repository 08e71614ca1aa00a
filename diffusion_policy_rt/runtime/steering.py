"""Positions that are reached with bounded acceleration, and never faster than they can be braked.

One step of `step` seconds changes the velocity by at most `change`. Braking from v covers

    step (v + (v - change) + (v - 2 change) + ...)

whose inverse, the velocity from which the way to go just suffices, is `fastest`. Going at
`fastest(way)` in each step uses up the way exactly, without passing its end: it is the
time-optimal control of a discrete double integrator (Han 2009, "From PID to active disturbance
rejection control", function fhan).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

FAR = 1e12
"""A way that bounds no velocity [unit]."""
MOST, SLOW = 100, 1e-6
"""Steps of braking that are told at once; share of a step's change of velocity that is rest."""


def fastest(way: np.ndarray, change: np.ndarray, step: float) -> np.ndarray:
    """Return the largest velocities that are braked within `way` (at least zero) [unit]."""
    way = way.clip(0.0, FAR)
    steps = np.maximum(1.0, np.ceil((np.sqrt(1 + 8 * way / (change * step)) - 1) / 2))
    return (way / step + change * steps * (steps - 1) / 2) / steps


@dataclass(frozen=True)
class Steering:
    """Moves A positions under bounds [A] of place, velocity and acceleration, in steps [s].

    Where they contradict each other, velocity goes before place and place before acceleration:
    from beyond its bounds a position comes back as fast as its velocity may be.
    """

    low: np.ndarray
    high: np.ndarray
    rate: np.ndarray
    acceleration: np.ndarray
    step: float

    def follow(self, targets: np.ndarray, before: np.ndarray, at: np.ndarray,
               velocity: np.ndarray, first_s: float) -> np.ndarray:
        """Return positions [K, A] towards `targets` [K, A], from `at` and `velocity` on.

        `before` is the target of one step ago: what moves is followed at its own velocity, and
        what is still missing is braked on that. No position is passed from which there is no way
        to stop within what remains of the targets. The first change of velocity has `first_s` for
        it, later ones a step. Entries of `at` or `velocity` that are NaN bound nothing.
        """
        rows = np.empty(targets.shape)
        targets, before = (np.clip(it, self.low, self.high) for it in (targets, before))
        most = np.maximum.accumulate(targets[::-1])[::-1]
        least = np.minimum.accumulate(targets[::-1])[::-1]
        moves = np.diff(np.vstack((before, targets)), axis=0) / self.step
        allowed = self.acceleration * first_s
        for k, target in enumerate(targets):
            missing = before - at
            back, ahead, catching, *room = self._fastest(
                at - least[k], most[k] - at, np.abs(missing), at - self.low, self.high - at)
            wanted = moves[k] + np.sign(missing) * catching
            at, velocity = self._go(wanted.clip(-back, ahead), target, at, velocity, allowed, room)
            before, rows[k], allowed = target, at, self._change
        return rows

    def brake(self, at: np.ndarray, velocity: np.ndarray, first_s: float) -> np.ndarray:
        """Return positions [K, A], K in 1..MOST, from `at` and `velocity` on to rest."""
        rows: list[np.ndarray] = []
        allowed = self.acceleration * first_s
        while not rows or (np.abs(velocity) > SLOW * allowed).any() and len(rows) < MOST:
            room = self._fastest(at - self.low, self.high - at)
            at, velocity = self._go(np.zeros(len(at)), at, at, velocity, allowed, room)
            allowed = self._change
            rows.append(at)
        return np.array(rows)

    @cached_property
    def _change(self) -> np.ndarray:
        """The largest change of velocity in a step [A]."""
        return self.acceleration * self.step

    @cached_property
    def _reach(self) -> np.ndarray:
        """The longest way in a step [A]."""
        return self.rate * self.step

    def _fastest(self, *ways: np.ndarray) -> list[np.ndarray]:
        """Return `fastest` of each way [A]; numpy takes as long for one of them as for five."""
        return list(fastest(np.array(ways), self._change, self.step))

    def _go(self, wanted: np.ndarray, target: np.ndarray, at: np.ndarray, velocity: np.ndarray,
            allowed: np.ndarray, room: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Return position and velocity after one step, as near to `wanted` [A] as can be.

        `room` are the velocities that can be braked before `low` and before `high`, each [A].
        """
        last, (down, up) = np.where(np.isfinite(velocity), velocity, wanted), room
        speed = wanted.clip(last - allowed, last + allowed).clip(-self.rate, self.rate)
        speed = speed.clip(-down, up)
        there = (at + speed * self.step).clip(self.low, self.high)
        there = there.clip(at - self._reach, at + self._reach)
        known = np.isfinite(at)
        if known.all():
            return there, speed
        return (np.where(known, there, target.clip(self.low, self.high)),
                np.where(known, speed, np.nan))
