"""Subscriptions to frames and states. The executor's thread checks headers and stores messages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image, JointState

from diffusion_policy_rt.errors import DprtError
from diffusion_policy_rt.ros.complaints import Complaints
from diffusion_policy_rt.ros.convert import TO_FRAME, joint_state_to_values, stamp_ns
from diffusion_policy_rt.ros.diagnostics import Monitor
from diffusion_policy_rt.ros.params import CameraParams
from diffusion_policy_rt.runtime.loop import PolicyLoop
from diffusion_policy_rt.runtime.observation import ROBOT
from diffusion_policy_rt.spec import CameraSpec

NEWEST = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
MESSAGES = {'raw': Image, 'compressed': CompressedImage}
STATE = 'joint_states'


class Inputs:
    """Feeds a loop while `open` is set. What is malformed is dropped, counted and told once."""

    def __init__(self, node: Node, loop: PolicyLoop, cameras: Mapping[str, CameraParams],
                 monitor: Monitor, complaints: Complaints, now_ns: Callable[[], int]) -> None:
        self._node, self._loop, self._now_ns = node, loop, now_ns
        self._monitor, self._complaints = monitor, complaints
        self.open = False
        """Whether messages reach the loop; else they are counted only."""
        self._subscriptions = [node.create_subscription(
            JointState, STATE, partial(self._take, STATE, self._state), NEWEST)]
        for camera in loop.spec.cameras:
            chosen = cameras[camera.name]
            take = partial(self._frame, camera, chosen.transport)
            self._subscriptions.append(node.create_subscription(
                MESSAGES[chosen.transport], chosen.full_topic,
                partial(self._take, source(camera.name), take), NEWEST))

    @property
    def dropped(self) -> dict[str, int]:
        """Messages dropped of each input since the start."""
        names = [*(source(camera.name) for camera in self._loop.spec.cameras), STATE]
        return {name: self._complaints.counts[name] for name in names}

    @property
    def faults(self) -> dict[str, dict[str, int]]:
        """What was wrong with each input since the start, beside what was dropped."""
        counts = self._loop.guard.counts
        return {STATE if name == ROBOT else source(name): {k: n for k, n in kinds.items() if n}
                for name, kinds in list(counts.items())}

    def destroy(self) -> None:
        """Give the subscriptions back."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)

    def _take(self, name: str, store: Callable[[Any, int], None], msg: Any) -> None:
        now = self._now_ns()
        stamp = msg.header.stamp
        self._monitor.received(name, now, _form(msg), stamp.sec * 1_000_000_000 + stamp.nanosec)
        try:
            store(msg, now)
        except DprtError as error:
            self._complaints.bad(name, str(error))
        else:
            self._complaints.good(name)

    def _frame(self, camera: CameraSpec, transport: str, msg: Any, now: int) -> None:
        frame = TO_FRAME[transport](camera, msg, now)
        if self.open:
            self._loop.observe_frame(frame)

    def _state(self, msg: JointState, now: int) -> None:
        spec = self._loop.spec.state
        values = joint_state_to_values(spec.names, msg)
        spec.validate(values)
        if self.open:
            self._loop.observe_state(stamp_ns(msg.header, now), now, values)


def source(camera: str) -> str:
    """Return the name under which a camera's faults and figures are told."""
    return f'camera {camera}'


def _form(msg: Any) -> str:
    if isinstance(msg, Image):
        return f'{msg.width}x{msg.height} {msg.encoding}'
    return msg.format if isinstance(msg, CompressedImage) else ''
