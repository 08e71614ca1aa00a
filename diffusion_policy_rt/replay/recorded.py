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
    """Finds the recorded action nearest to a due time, among those of the last moments.

    `parts` are the columns of what is recorded on topics of their own, together all. The first
    must be near; a command of another, a gripper's, stands until its next.
    """

    def __init__(self, period_ns: int, parts: Sequence[Sequence[int]]) -> None:
        self._period_ns, self._parts = period_ns, [list(columns) for columns in parts]
        self.before_ns = self.after_ns = period_ns // 2
        """How far from its due time an action may have been recorded [ns]."""
        self._recent = [deque[tuple[int, np.ndarray]]() for _ in parts]

    def follow(self) -> None:
        """Take the actions for those of the very ticks, each recorded before the next tick."""
        self.before_ns, self.after_ns = 0, self._period_ns - 1

    def push(self, at_ns: int, values: np.ndarray, part: int = 0) -> None:
        """Take in a part of an action, recorded at `at_ns`."""
        self._recent[part].append((at_ns, values))

    def nearest(self, due_ns: int) -> np.ndarray | None:
        """Return the action [A] nearest to `due_ns`, and forget what is older than both."""
        action = np.empty(sum(map(len, self._parts)))
        for k, columns in enumerate(self._parts):
            found = self._near(k, due_ns)
            if found is None:
                return None
            action[columns] = found
        return action if self._parts else None

    def _near(self, part: int, due_ns: int) -> np.ndarray | None:
        recent, first, older = self._recent[part], due_ns - self.before_ns, min(part, 1)
        while len(recent) > older and recent[older][0] < first:
            recent.popleft()
        near = [(at < first, abs(at - due_ns), k) for k, (at, _) in enumerate(recent)
                if at <= due_ns + self.after_ns]
        return recent[min(near)[2]][1] if near else None
