"""Actions to command messages, all or nothing: what does not fit a message is refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import PoseStamped, TwistStamped
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from diffusion_policy_rt.errors import SpecError
from diffusion_policy_rt.ros.packed import PackedTrajectory

TWIST = tuple(f'{part}.{axis}' for part in ('linear', 'angular') for axis in 'xyz')
POSITION = tuple(f'position.{axis}' for axis in 'xyz')
ORIENTATION = tuple(f'orientation.{axis}' for axis in 'xyzw')


class Output(Protocol):
    """One kind of command."""

    message: type
    """The ROS message class."""
    velocity: bool
    """Whether its values are velocities: zero holds the robot."""
    whole: bool
    """Whether a message holds all K actions, or the one due now alone."""
    stamped: bool
    """Whether it tells when it was made; else `stamp` is not looked at."""

    def to_message(self, actions: np.ndarray, stamp: Time | None) -> Any:
        """Make the message of actions [K, A] in units: the one due now, then the rest.

        It is serialized, or one and the same, filled anew, that stands until the next call: a tick
        has no time to make its parts.
        """


class JointTrajectoryOutput:
    """The rest of the chunk; point i is due (i + 1) / rate after the message's arrival."""

    message, velocity, whole, stamped = JointTrajectory, False, True, False

    def __init__(self, fields: Sequence[str], rate: float, frame_id: str) -> None:
        self._fields, self._frame_id, self._step_ns = fields, frame_id, round(1e9 / rate)
        self._packed: dict[int, PackedTrajectory] = {}

    def to_message(self, actions: np.ndarray, stamp: Time | None) -> bytes:
        """Make the message in CDR; its stamp is 0, which means now to every controller."""
        points = len(actions)
        if points not in self._packed:
            self._packed[points] = PackedTrajectory(self._fields, self._frame_id, self._step_ns,
                                                    points)
        return self._packed[points].of(actions)


class Float64MultiArrayOutput:
    """The values due now, in the policy's order."""

    message, velocity, whole, stamped = Float64MultiArray, False, False, False

    def __init__(self, fields: Sequence[str], rate: float, frame_id: str) -> None:
        self._message = Float64MultiArray()

    def to_message(self, actions: np.ndarray, stamp: Time | None) -> Float64MultiArray:
        """Make the message; the type has neither names nor a stamp."""
        self._message.data = actions[0].tolist()
        return self._message


class TwistStampedOutput:
    """The velocity due now; components that no action fills are zero."""

    message, velocity, whole, stamped = TwistStamped, True, False, True

    def __init__(self, fields: Sequence[str], rate: float, frame_id: str) -> None:
        self._fields, self._message = _accept(fields, TWIST, {}), TwistStamped()
        self._message.header.frame_id = frame_id

    def to_message(self, actions: np.ndarray, stamp: Time | None) -> TwistStamped:
        """Make the message, stamped `stamp`."""
        self._message.header.stamp = stamp
        _fill(self._message.twist, self._fields, actions[0])
        return self._message


class PoseStampedOutput:
    """The pose due now; with no orientation among the actions it is the identity."""

    message, velocity, whole, stamped = PoseStamped, False, False, True

    def __init__(self, fields: Sequence[str], rate: float, frame_id: str) -> None:
        short = {name[-1]: name for name in POSITION}
        self._fields, self._message = _accept(fields, POSITION + ORIENTATION, short), PoseStamped()
        self._message.header.frame_id = frame_id
        turned = [name for name in ORIENTATION if name in self._fields]
        if turned and len(turned) < len(ORIENTATION):
            raise SpecError(f'action_fields hold {", ".join(turned)}; an orientation needs all of '
                            f'{", ".join(ORIENTATION)}')
        self._turn = [self._fields.index(name) for name in turned]

    def to_message(self, actions: np.ndarray, stamp: Time | None) -> PoseStamped:
        """Make the message, stamped `stamp`, its quaternion of length 1."""
        values = actions[0].copy()
        if self._turn:
            length = np.linalg.norm(values[self._turn])
            if length < 1e-6:
                raise SpecError('the orientation is no rotation: all four values are zero')
            values[self._turn] /= length
        self._message.header.stamp = stamp
        _fill(self._message.pose, self._fields, values)
        return self._message


OUTPUTS: dict[str, type] = {
    'joint_trajectory': JointTrajectoryOutput, 'float64_multi_array': Float64MultiArrayOutput,
    'twist_stamped': TwistStampedOutput, 'pose_stamped': PoseStampedOutput}
"""The values of the parameter `action_type`."""


def make_output(action_type: str, fields: Sequence[str], names: Sequence[str], rate: float,
                frame_id: str = '') -> Output:
    """Return the output of this type for actions `names` [A] at the policy's rate [Hz].

    `fields` [A] says what each action fills: a joint's name, or a part of the message such as
    linear.x. Raises SpecError with what is accepted.
    """
    if action_type not in OUTPUTS:
        raise SpecError(f'action_type {action_type!r}: use one of {", ".join(OUTPUTS)}')
    if len(fields) != len(names) or len(set(fields)) != len(fields):
        raise SpecError(f'action_fields {list(fields)} must be {len(names)} distinct names, one '
                        f'per action ({", ".join(names)})')
    return OUTPUTS[action_type](fields, rate, frame_id)


def check_finite(actions: np.ndarray) -> None:
    """Raise SpecError when a value of actions [K, A] is not finite, or when there is none."""
    if not actions.size or not np.isfinite(actions).all():
        raise SpecError('an action is not finite; nothing was published')


def _accept(fields: Sequence[str], accepted: Sequence[str], short: dict[str, str]) -> list[str]:
    long = [short.get(field, field) for field in fields]
    unknown = [field for field in long if field not in accepted]
    if unknown:
        raise SpecError(f'action field {unknown[0]!r} does not fit this action_type; set '
                        f'action_fields to names among {", ".join([*short, *accepted])}')
    return long


def _fill(part: Any, fields: Sequence[str], values: np.ndarray) -> None:
    for field, value in zip(fields, values.tolist()):
        group, axis = field.split('.')
        setattr(getattr(part, group), axis, value)
