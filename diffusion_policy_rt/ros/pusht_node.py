"""`pusht_node`: a simulated robot with a camera, in real time. It waits for nobody."""

from __future__ import annotations

import array
import json
import sys
import threading
import time
from typing import Any

import cv2
import numpy as np
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import Float64, Float64MultiArray, String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from diffusion_policy_rt.errors import DprtError, SpecError
from diffusion_policy_rt.ros.complaints import Complaints
from diffusion_policy_rt.ros.spin import run
from diffusion_policy_rt.sim.pusht import RATE, SUBSTEPS, PushT
from diffusion_policy_rt.sim.score import Account
from diffusion_policy_rt.sim.target import NAMES, Target, from_trajectory, from_values

CAMERA = 'camera/front/image_raw'
SUBSTEP_NS = 1_000_000_000 // (RATE * SUBSTEPS)
RESET_PATIENCE_NS = 1_000_000_000
"""How long an answer of the reset service is waited for before actions count again [ns]."""
ACTIONS = {'joint_trajectory': (JointTrajectory, from_trajectory),
           'float64_multi_array': (Float64MultiArray, from_values)}
PARAMETERS = {
    'seed': (100_000, 'Seed of the first episode; each next one is one higher.'),
    'episodes': (0, 'Episodes after which the node ends; 0 for no end.'),
    'width': (96, 'Columns of the image [px].'),
    'height': (96, 'Rows of the image [px].'),
    'compressed': (False, 'Publish the images compressed (png), too.'),
    'action_topic': ('action', 'Topic of the actions.'),
    'action_type': ('joint_trajectory', 'Type of the actions: ' + ' or '.join(ACTIONS)),
    'reset_service': ('', 'Service of the policy to call at each new episode; empty for none.')}


class PushTNode(Node):
    """The robot `x`, `y` [px of the 512-wide task] and its camera `front`."""

    def __init__(self, **options: Any) -> None:
        super().__init__('pusht', **options)
        for name, (default, description) in PARAMETERS.items():
            self.declare_parameter(name, default, ParameterDescriptor(
                description=description, read_only=True))
        self.finished = threading.Event()
        self._complaints = Complaints(self.get_logger().warning, self.get_logger().info)
        self._target: Target | None = None
        self._deaf_until = 0
        self._publishers_and_inputs()
        self._account: Account | None = None
        self._thread = threading.Thread(target=self._run, name='physics', daemon=True)
        self._thread.start()

    def _value(self, name: str) -> Any:
        return self.get_parameter(name).value

    def _publishers_and_inputs(self) -> None:
        action_type = self._value('action_type')
        if action_type not in ACTIONS:
            raise SpecError(f'action_type {action_type!r}: use one of {", ".join(ACTIONS)}')
        message, self._to_target = ACTIONS[action_type]
        self.create_subscription(message, self._value('action_topic'), self._take, 1)
        self._image = self.create_publisher(Image, CAMERA, 1)
        self._compressed = self.create_publisher(CompressedImage, f'{CAMERA}/compressed', 1) \
            if self._value('compressed') else None
        self._joints = self.create_publisher(JointState, 'joint_states', 1)
        self._coverage = self.create_publisher(Float64, '~/coverage', 10)
        self._episode = self.create_publisher(String, '~/episode', QoSProfile(depth=10))
        service = self._value('reset_service')
        self._policy = self.create_client(Trigger, service) if service else None

    def close(self) -> None:
        """End the physics and tell how far the episode came."""
        self.finished.set()
        self._thread.join()
        if self._account is not None:
            self._tell_episode(complete=False)
        self._episode.wait_for_all_acked(Duration(seconds=0.5))

    # -- actions -------------------------------------------------------------------------------

    def _take(self, msg: Any) -> None:
        now = time.perf_counter_ns()
        if now < self._deaf_until:  # planned from what the last episode showed
            return
        try:
            self._target = self._to_target(msg, now)
        except DprtError as error:
            self._complaints.bad('action', str(error))
        else:
            self._complaints.good('action')

    def _begin(self, world: PushT, seed: int) -> None:
        """Start an episode; actions count from when the policy has forgotten the last one."""
        world.reset(seed)
        self._account, self._rest = Account(seed), world.tool
        if self._policy is not None and self._policy.service_is_ready():
            self._deaf_until = time.perf_counter_ns() + RESET_PATIENCE_NS
            self._policy.call_async(Trigger.Request()).add_done_callback(self._listen)
        self._target = None

    def _listen(self, _: object) -> None:
        self._deaf_until = 0

    # -- physics -------------------------------------------------------------------------------

    def _run(self) -> None:
        """Step the physics at absolute instants, whatever anyone else does."""
        world, due = PushT(), time.perf_counter_ns()
        first, episodes = self._value('seed'), self._value('episodes')
        seed = first
        self._begin(world, seed)
        while not self.finished.is_set():
            self._observe(world)
            for _ in range(SUBSTEPS):
                target = self._target
                world.substep(self._rest if target is None else target.at(due))
                due += SUBSTEP_NS
                self.finished.wait(max(0, due - time.perf_counter_ns()) / 1e9)
            if self._step(world):
                seed += 1
                if seed - first == episodes:
                    self.finished.set()
                else:
                    self._begin(world, seed)

    def _step(self, world: PushT) -> bool:
        """Account for a control step; return whether the episode is over."""
        assert self._account is not None
        coverage = world.coverage()
        over = self._account.step(coverage)
        self._coverage.publish(Float64(data=coverage))
        if over:
            self._tell_episode(complete=True)
            self._account = None
        return over

    def _tell_episode(self, complete: bool) -> None:
        assert self._account is not None
        self._episode.publish(String(data=json.dumps(self._account.to_json(complete))))

    def _observe(self, world: PushT) -> None:
        """Publish the state and the image of one instant under one stamp."""
        stamp = self.get_clock().now().to_msg()
        joints = JointState(name=list(NAMES), position=world.tool.tolist(),
                            velocity=world.velocity.tolist())
        joints.header.stamp = stamp
        self._joints.publish(joints)
        rgb = world.render(self._value('width'), self._value('height'))
        image = _image(rgb)
        image.header.stamp, image.header.frame_id = stamp, 'front'
        self._image.publish(image)
        if self._compressed is not None:
            png = CompressedImage(format='png', header=image.header)
            png.data.frombytes(cv2.imencode('.png', cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))[1])
            self._compressed.publish(png)


def _image(rgb: np.ndarray) -> Image:
    rows, columns, _ = rgb.shape
    # assigning bytes or a memoryview would be copied value by value
    return Image(height=rows, width=columns, encoding='rgb8', step=3 * columns,
                 data=array.array('B', rgb.tobytes()))


def main(args: list[str] | None = None) -> int:
    """Run the node until it is interrupted or out of episodes; return the exit code."""
    return run(PushTNode, args)


if __name__ == '__main__':
    sys.exit(main())
