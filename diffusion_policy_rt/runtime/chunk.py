"""A chunk of actions, each with a due time, so that what was consumed is known, not estimated.

    observation at `stamp`, n_obs 2, actions 100 ms apart:

    action      0         1         2         3        ...   H-1
    due     stamp-100   stamp   stamp+100 stamp+200
    now                              ^ stamp+130: action 2 (the nearest due time)

A plan that took 130 ms is entered at action 2, never at its head.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Chunk:
    """Actions [H, A] in units; action i is due at start_ns + i step_ns."""

    start_ns: int
    step_ns: int
    actions: np.ndarray
    stamp_ns: int
    """Instant of the observation it was planned from [ns]."""
    steps: int
    """Network calls that made it."""

    def __post_init__(self) -> None:
        self.actions.setflags(write=False)

    def index(self, now_ns: int) -> int:
        """Return the action whose due time is nearest to now; may lie outside 0..H-1."""
        return (2 * (now_ns - self.start_ns) + self.step_ns) // (2 * self.step_ns)

    def rest(self, now_ns: int) -> np.ndarray:
        """Return the action due now and all after it: [K, A], K = 0 when nothing is left."""
        return self.actions[max(0, self.index(now_ns)):]


def continued(old: Chunk | None, start_ns: int, from_ns: int) -> np.ndarray | None:
    """Return what `old` has for each due time of a chunk that begins at `start_ns`: [H, A].

    Its last action stands for all after it. None where there is no old chunk, or where it has
    nothing due at `from_ns` or later.
    """
    if old is None or not len(old.rest(from_ns)):
        return None
    last = len(old.actions) - 1
    return old.actions[np.clip(old.index(start_ns) + np.arange(last + 1), 0, last)]


@dataclass(frozen=True)
class Joint:
    """How a seam is bounded: what a jump has beyond `reach` fades over `count` actions."""

    reach: float
    """Euclidean in units of `scale`; 0 leaves every jump as it is."""
    count: int
    scale: np.ndarray
    """[A]"""


def join(old: Chunk | None, new: Chunk, now_ns: int, how: Joint) -> Chunk:
    """Return `new` without what its jump at the seam has beyond the reach.

    The jump leads from the action due before `now_ns` to the one due then. Its excess is taken off
    that one, and evenly less off each of `count` in all. Shorter jumps, and chunks that meet no
    action before them, are left as they are.
    """
    rest = new.rest(now_ns)
    before = old.rest(now_ns - old.step_ns) if old is not None else rest[:0]
    if not how.reach or not len(rest) or not len(before):
        return new
    jump = rest[0] - before[0]
    excess = 1 - how.reach / max(float(np.linalg.norm(jump / how.scale)), how.reach)
    if not how.count or not excess:
        return new
    fading = 1 - np.arange(min(how.count, len(rest)))[:, None] / how.count
    first, actions = max(0, new.index(now_ns)), new.actions.copy()
    actions[first:first + how.count] -= excess * jump * fading
    return replace(new, actions=actions)


def splice(old: Chunk | None, new: Chunk, now_ns: int) -> Chunk:
    """Return the chunk to follow from now on.

    The newer observation wins; a chunk that came too late to have an action left does not.
    """
    if old is None:
        return new
    if new.stamp_ns < old.stamp_ns or not len(new.rest(now_ns)):
        return old
    return new
