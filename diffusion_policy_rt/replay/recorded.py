"""The actions in a bag: what the operator, or another policy, did."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from diffusion_policy_rt.errors import FrameError
from diffusion_policy_rt.ros.convert import joint_state_to_values


def _named(names: Sequence[str], found: Sequence[str], values: Sequence[float]) -> np.ndarray:
    known = dict(zip(found, values))
    missing = [name for name in names if name not in known]
    if missing:
        raise FrameError(f'action {missing[0]} is missing from the message; it holds '
                         f'{", ".join(known) or "none"}')
    return np.array([known[name] for name in names], float)


def _trajectory(names: Sequence[str], msg: Any) -> np.ndarray:
    if not len(msg.points):
        raise FrameError('a trajectory without points')
    return _named(names, list(msg.joint_names), list(msg.points[0].positions))


def _array(names: Sequence[str], msg: Any) -> np.ndarray:
    if len(msg.data) != len(names):
        raise FrameError(f'{len(msg.data)} values are no action of {len(names)}')
    return np.array(msg.data, float)


def _parts(part: str) -> Callable[[Sequence[str], Any], np.ndarray]:
    def read(names: Sequence[str], msg: Any) -> np.ndarray:
        base = getattr(msg, part) if hasattr(msg, part) else msg
        try:
            return np.array([getattr(getattr(base, group), axis) for group, axis in (
                name.split('.') for name in names)], float)
        except (AttributeError, ValueError) as error:
            raise FrameError(f'actions {", ".join(names)} are no parts of a {part}') from error

    return read


READERS: dict[str, Callable[[Sequence[str], Any], np.ndarray]] = {
    'trajectory_msgs/msg/JointTrajectory': _trajectory,
    'sensor_msgs/msg/JointState': joint_state_to_values,
    'std_msgs/msg/Float64MultiArray': _array,
    'geometry_msgs/msg/TwistStamped': _parts('twist'), 'geometry_msgs/msg/Twist': _parts('twist'),
    'geometry_msgs/msg/PoseStamped': _parts('pose'), 'geometry_msgs/msg/Pose': _parts('pose')}
"""Message type -> (action names, message) -> the action due first, float64 [A] in units."""


class Matcher:
    """Finds the recorded action nearest to a due time, among those of the last moments."""

    def __init__(self, period_ns: int) -> None:
        self._period_ns = period_ns
        self.before_ns = self.after_ns = period_ns // 2
        """How far from its due time an action may have been recorded [ns]."""
        self._recent: deque[tuple[int, np.ndarray]] = deque()

    def follow(self) -> None:
        """Take the actions for those of the very ticks, each recorded before the next tick."""
        self.before_ns, self.after_ns = 0, self._period_ns - 1

    def push(self, at_ns: int, action: np.ndarray) -> None:
        """Take in an action [A] recorded at `at_ns`."""
        self._recent.append((at_ns, action))

    def nearest(self, due_ns: int) -> np.ndarray | None:
        """Return the action [A] nearest to `due_ns`, and forget what is older than both."""
        while self._recent and self._recent[0][0] < due_ns - self.before_ns:
            self._recent.popleft()
        near = [(abs(at - due_ns), k) for k, (at, _) in enumerate(self._recent)
                if at <= due_ns + self.after_ns]
        return self._recent[min(near)[1]][1] if near else None
