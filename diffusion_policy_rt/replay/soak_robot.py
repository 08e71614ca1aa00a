"""A robot for long runs: feeds a policy node, checks every action, keeps no messages."""

from __future__ import annotations

import math
import threading
import time
from array import array
from collections import Counter
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.srv import SetParametersAtomically
from rclpy.node import Node
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float64MultiArray
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from diffusion_policy_rt.replay import fuzz
from diffusion_policy_rt.ros.param_table import TABLE
from diffusion_policy_rt.ros.policy_params import policy_params
from diffusion_policy_rt.runtime.observation import ROBOT
from diffusion_policy_rt.runtime.trace import Tick, read_values
from diffusion_policy_rt.spec import PolicySpec

CALM, SILENT, REQUEST = 0.5, 0.1, 0.05
"""Shares of rounds while fuzzing: nothing is bent, nothing is sent, a request is made too."""
SETTING, SOUND = 0.4, 0.8
"""Below the first a request is for a parameter, below the second for sound ones."""
TOLERANCE = 1e-6


class SoakRobot(Node):
    """Publishes one image per camera and the joint state at `hz`; takes in ticks and actions."""

    def __init__(self, spec: PolicySpec, width: int, height: int, hz: float, seed: int) -> None:
        super().__init__('soak_robot')
        self.ticks: list[Tick] = []
        self.missed = 0
        self.counts: Counter[str] = Counter()
        self.wild: list[str] = []
        """Actions that were not finite or not within the policy's bounds."""
        self.fuzzing = False
        self.sound: dict[str, Any] = {}
        """Parameters asked for now and then while fuzzing, lest bad ones stand for long."""
        self.sent = dict.fromkeys((camera.name for camera in spec.cameras), 0)
        """Images of each camera."""
        self._arrived: dict[str, list[tuple[int, int]]] = {name: [] for name in self.sent}
        """Per camera the first and the last time that the node told how many had come: that, and
        how many had been sent by then."""
        self._spec, self._size, self._hz = spec, (width, height), hz
        self._params = [*TABLE, *policy_params(spec)]
        self._rng, self._stop = np.random.default_rng(seed), threading.Event()
        self._cameras = {c.name: self.create_publisher(Image, f'camera/{c.name}/image_raw', 1)
                         for c in spec.cameras}
        self._joints = self.create_publisher(JointState, 'joint_states', 1)
        self.create_subscription(Float64MultiArray, '/policy/timing', self._tick, 1000)
        self.create_subscription(JointTrajectory, '/policy/action', self._action, 1000)
        self.create_subscription(DiagnosticArray, '/diagnostics', self._diagnostics, 10)
        self._setting = self.create_client(SetParametersAtomically,
                                           '/policy/set_parameters_atomically')
        self._triggers = {name: self.create_client(Trigger, f'/policy/{name}')
                          for name in ('start', 'stop', 'reset')}
        self._thread = threading.Thread(target=self._feed, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the publishing."""
        self._stop.set()
        self._thread.join()
        self.destroy_node()

    # -- what the node says --------------------------------------------------------------------

    def _tick(self, msg: Float64MultiArray) -> None:
        self.ticks.append(read_values(msg.data))
        self.missed += self.ticks[-1].missed

    def _action(self, msg: JointTrajectory) -> None:
        self.counts['actions'] += 1
        spec = self._spec.action
        values = np.array([point.positions for point in msg.points], float)
        low, high = np.asarray(spec.low) - TOLERANCE, np.asarray(spec.high) + TOLERANCE
        if not values.size or not ((values >= low) & (values <= high)).all():
            self.wild.append(f'{values.tolist()}')

    def _diagnostics(self, msg: DiagnosticArray) -> None:
        for status in msg.status:
            name = status.name.partition(': camera ')[2]
            came = {pair.key: pair.value for pair in status.values}.get('received')
            if name in self._arrived and came:
                self._arrived[name][1:] = [(int(came), self.sent[name])]

    def figures(self) -> dict[str, Any]:
        """Return what was sent and published, and how many of the images came through.

        A few images may be on their way at the time of either report.
        """
        through = {name: pairs for name, pairs in self._arrived.items() if len(pairs) == 2}
        counts = {name: self.counts[name] for name in ('actions', 'messages', 'bent', 'requests')}
        return {'wild_actions': len(self.wild), 'first_wild': self.wild[:1], **counts,
                'frames': {name: {'sent': last[1] - first[1], 'received': last[0] - first[0]}
                           for name, (first, last) in through.items()}}

    @property
    def planned(self) -> bool:
        """Whether the newest tick took in a plan, its own or one that came after the last tick."""
        return bool(self.ticks) and math.isfinite(self.ticks[-1].plan_s)

    # -- what it is sent -----------------------------------------------------------------------

    def _feed(self) -> None:
        due = time.perf_counter()
        while not self._stop.wait(max(0.0, due - time.perf_counter())):
            if not (self.fuzzing and self._rng.random() < SILENT):
                self._send()
            if self.fuzzing and self._rng.random() < REQUEST:
                self._request()
            due = max(due + 1 / self._hz, time.perf_counter() - 1)

    def _send(self) -> None:
        stamp = self.get_clock().now().to_msg()
        state = JointState(name=list(self._spec.state.names),
                           position=self._spec.state.example().astype(float).tolist())
        messages: list[tuple[str, Any, Any]] = [(ROBOT, self._joints, state)]
        messages += [(name, publisher, self._image()) for name, publisher in self._cameras.items()]
        for stream, publisher, msg in messages:
            msg.header.stamp = stamp
            if self.bend(stream, msg):
                publisher.publish(msg)
                self.counts['messages'] += 1
                if stream in self.sent:
                    self.sent[stream] += 1

    def bend(self, stream: str, msg: Any) -> bool:
        """Bend a message of a camera or of the `ROBOT`; return whether it is sent."""
        if self.fuzzing and self._rng.random() > CALM:
            fuzz.bend(msg, self._rng)
            self.counts['bent'] += 1
        return True

    def _image(self) -> Image:
        width, height = self._size
        pixels = self._rng.integers(0, 256, height * width * 3, np.uint8)
        return Image(height=height, width=width, encoding='rgb8', step=3 * width,
                     data=array('B', pixels.tobytes()))

    def _request(self) -> None:
        self.counts['requests'] += 1
        kind = self._rng.random()
        if kind < SOUND:
            self.set(dict([fuzz.setting(self._params, self._rng)]) if kind < SETTING
                     else self.sound)
        else:
            self.call(str(self._rng.choice(list(self._triggers))))

    def set(self, values: dict[str, Any]) -> None:
        """Ask the node to set parameters as a set; nothing waits for the answer."""
        self._setting.call_async(SetParametersAtomically.Request(parameters=[
            Parameter(name, value=value).to_parameter_msg() for name, value in values.items()]))

    def call(self, service: str) -> None:
        """Call `start`, `stop` or `reset`; nothing waits for the answer."""
        self._triggers[service].call_async(Trigger.Request())
