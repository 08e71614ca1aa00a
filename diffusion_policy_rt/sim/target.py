"""Where a simulated robot is told to go: the newest action, followed by its due times.

    points       0         1         2        2 (the last is held)
    due     now      +100      +200
    followed |---------|---------|------------->
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffusion_policy_rt.errors import FrameError


@dataclass(frozen=True)
class Target:
    """Positions [K, A] in units; position i is followed until due_ns[i] after the arrival."""

    positions: np.ndarray
    due_ns: np.ndarray
    """Rising, [K]."""
    arrival_ns: int

    def at(self, now_ns: int) -> np.ndarray:
        """Return the position to follow, [A]; the last one is held."""
        index = np.searchsorted(self.due_ns, now_ns - self.arrival_ns, side='right')
        return self.positions[min(int(index), len(self.positions) - 1)]


def from_trajectory(names: Sequence[str], msg: Any, arrival_ns: int) -> Target:
    """Make a target of joints `names` of a trajectory_msgs/JointTrajectory, matched by name.

    Raises FrameError for a missing joint, an empty trajectory, or values that are not finite.
    """
    missing = [name for name in names if name not in msg.joint_names]
    if missing:
        raise FrameError(f'joint {missing[0]} is missing from the action; it holds '
                         f'{", ".join(msg.joint_names) or "none"}')
    columns = [list(msg.joint_names).index(name) for name in names]
    if any(len(point.positions) != len(msg.joint_names) for point in msg.points):
        raise FrameError('a trajectory point has not as many positions as there are joints')
    positions = np.array([point.positions for point in msg.points]).reshape(-1, len(
        msg.joint_names))[:, columns]
    due = [p.time_from_start.sec * 1_000_000_000 + p.time_from_start.nanosec for p in msg.points]
    return _target(positions, np.array(due, np.int64), arrival_ns)


def from_values(names: Sequence[str], msg: Any, arrival_ns: int) -> Target:
    """Make a target of a std_msgs/Float64MultiArray that holds the values of `names`."""
    if len(msg.data) != len(names):
        raise FrameError(f'the action has {len(msg.data)} values; expected {", ".join(names)}')
    return _target(np.array([msg.data]), np.zeros(1, np.int64), arrival_ns)


def _target(positions: np.ndarray, due_ns: np.ndarray, arrival_ns: int) -> Target:
    if not len(positions):
        raise FrameError('the action has no points')
    if not np.isfinite(positions).all():
        raise FrameError('the action is not finite')
    return Target(positions, due_ns, arrival_ns)
