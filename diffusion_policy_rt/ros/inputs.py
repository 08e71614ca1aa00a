"""Subscriptions to frames and states. The executor's thread checks headers and stores messages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image, JointState

from diffusion_policy_rt.ros.complaints import Complaints
from diffusion_policy_rt.ros.diagnostics import Monitor
from diffusion_policy_rt.ros.intake import STATE, Intake, source
from diffusion_policy_rt.ros.params import CameraParams
from diffusion_policy_rt.runtime.loop import PolicyLoop
from diffusion_policy_rt.runtime.observation import ROBOT

NEWEST = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
MESSAGES = {'raw': Image, 'compressed': CompressedImage}


class Inputs(Intake):
    """The intake of a node: its subscriptions, and the figures of what they receive."""

    def __init__(self, node: Node, loop: PolicyLoop, cameras: Mapping[str, CameraParams],
                 monitor: Monitor, complaints: Complaints, now_ns: Callable[[], int]) -> None:
        super().__init__(loop, complaints)
        self._node, self._monitor, self._now_ns = node, monitor, now_ns
        self._subscriptions = [node.create_subscription(
            JointState, STATE, partial(self._receive, STATE, self.state), NEWEST)]
        for camera in loop.spec.cameras:
            chosen = cameras[camera.name]
            take = partial(self.frame, camera, chosen.transport)
            self._subscriptions.append(node.create_subscription(
                MESSAGES[chosen.transport], chosen.full_topic,
                partial(self._receive, source(camera.name), take), NEWEST))

    @property
    def faults(self) -> dict[str, dict[str, int]]:
        """What was wrong with each input since the start, beside what was dropped."""
        counts = {name: dict(kinds)  # copies at once: planning counts meanwhile
                  for name, kinds in dict(self._loop.guard.counts).items()}
        return {STATE if name == ROBOT else source(name): {k: n for k, n in kinds.items() if n}
                for name, kinds in counts.items()}

    def destroy(self) -> None:
        """Give the subscriptions back."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)

    def _receive(self, name: str, take: Callable[[Any, int], bool], msg: Any) -> None:
        now = self._now_ns()
        stamp = msg.header.stamp
        self._monitor.received(name, now, _form(msg), stamp.sec * 1_000_000_000 + stamp.nanosec)
        take(msg, now)


def _form(msg: Any) -> str:
    if isinstance(msg, Image):
        return f'{msg.width}x{msg.height} {msg.encoding}'
    return msg.format if isinstance(msg, CompressedImage) else ''
