"""A simulated robot with its cameras as a node, in real time. It waits for nobody."""

from __future__ import annotations

import functools
import json
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64, Float64MultiArray, String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from diffusion_policy_rt.errors import DprtError, SpecError
from diffusion_policy_rt.ros.complaints import Complaints
from diffusion_policy_rt.ros.sim_camera import SimCamera
from diffusion_policy_rt.sim.score import Account
from diffusion_policy_rt.sim.target import Target, from_trajectory, from_values
from diffusion_policy_rt.sim.tasks import SimulatedRobot, Task

RESET_PATIENCE_NS = 1_000_000_000
"""How long an answer of the reset service is waited for before actions count again [ns]."""
ACTIONS: dict[str, tuple[type, Callable[[Sequence[str], Any, int], Target]]] = {
    'joint_trajectory': (JointTrajectory, from_trajectory),
    'float64_multi_array': (Float64MultiArray, from_values)}
TYPES = ' or '.join(ACTIONS)
PARAMETERS = {
    'seed': (100_000, 'Seed of the first episode; each next one is one higher.'),
    'episodes': (0, 'Episodes after which the node ends; 0 for no end.'),
    'width': (96, 'Columns of the images [px].'),
    'height': (96, 'Rows of the images [px].'),
    'compressed': (False, 'Publish the images compressed (png), too.'),
    'action_topic': ('action', 'Topic of the actions.'),
    'action_type': ('joint_trajectory', f'Type of the actions: {TYPES}.'),
    'reset_service': ('', 'Service of the policy to call at each new episode; empty for none.')}
GRIPPER = {
    'gripper_topic': ('', 'Topic of the gripper\'s own actions; empty where they are among the '
                          'others.'),
    'gripper_type': ('float64_multi_array', f'Type of the gripper\'s own actions: {TYPES}.')}


class SimNode(Node):
    """One simulated robot: its joints, its cameras, and the episodes of its task."""

    def __init__(self, task: Task, **options: Any) -> None:
        """Start the robot; DprtError where its simulator is not installed."""
        super().__init__(task.name, **options)
        self._task = task
        self._declare()
        self.finished = threading.Event()
        self._complaints = Complaints(self.get_logger().warning, self.get_logger().info)
        self._targets: dict[str, Target] = {}
        self._readers: dict[str, Callable[[Any, int], Target]] = {}
        self._columns: dict[str, list[int]] = {}
        self._deaf_until = 0
        self._account: Account | None = None
        self._publishers_and_inputs()
        self._robot = task.make()
        self._thread = threading.Thread(target=self._live, name='physics', daemon=True)
        self._thread.start()

    def _declare(self) -> None:
        task = self._task
        rates = {f'cameras.{camera}.rate': (float(task.rate), f'Images per second [Hz]; a divisor '
                                            f'of {task.rate * task.substeps}.')
                 for camera in task.cameras}
        for name, (default, description) in {
                **PARAMETERS, **(GRIPPER if task.gripper else {}), **rates}.items():
            self.declare_parameter(name, default, ParameterDescriptor(
                description=description, read_only=True))

    def _value(self, name: str) -> Any:
        return self.get_parameter(name).value

    def _publishers_and_inputs(self) -> None:
        task = self._task
        apart = task.gripper if task.gripper and self._value('gripper_topic') else ()
        self._listen_to('action', [name for name in task.joints if name not in apart])
        if apart:
            self._listen_to('gripper', apart)
        self._cameras = [SimCamera(self, task, name) for name in task.cameras]
        self._joints = self.create_publisher(JointState, 'joint_states', 1)
        self._progress = self.create_publisher(Float64, f'~/{task.measure}', 10)
        self._episode = self.create_publisher(String, '~/episode', QoSProfile(depth=10))
        service = self._value('reset_service')
        self._policy = self.create_client(Trigger, service) if service else None

    def _listen_to(self, kind: str, names: Sequence[str]) -> None:
        """Take the actions of these joints from the topic of this kind."""
        action_type = self._value(f'{kind}_type')
        if action_type not in ACTIONS:
            raise SpecError(f'{kind}_type {action_type!r}: use one of {", ".join(ACTIONS)}')
        message, to_target = ACTIONS[action_type]
        self._readers[kind] = functools.partial(to_target, names)
        self._columns[kind] = self._task.columns(names)
        self.create_subscription(message, self._value(f'{kind}_topic'),
                                 functools.partial(self._take, kind), 1)

    def _take(self, kind: str, msg: Any) -> None:
        now = time.perf_counter_ns()
        if now < self._deaf_until:  # planned from what the last episode showed
            return
        try:
            self._targets[kind] = self._readers[kind](msg, now)
        except DprtError as error:
            self._complaints.bad(kind, str(error))
        else:
            self._complaints.good(kind)

    def close(self) -> None:
        """End the physics and tell how far the episode came."""
        self.finished.set()
        self._thread.join()
        if self._account is not None:
            self._tell_episode(complete=False)
        self._episode.wait_for_all_acked(Duration(seconds=0.5))

    # -- physics -------------------------------------------------------------------------------

    def _live(self) -> None:
        try:
            self._run(self._robot)
        except DprtError as error:
            self.get_logger().fatal(str(error))
        finally:
            self.finished.set()  # a robot without physics must not look alive
            self._robot.close()

    def _run(self, robot: SimulatedRobot) -> None:
        """Step the physics at absolute instants, whatever anyone else does."""
        step_ns, tick = 1_000_000_000 // (self._task.rate * self._task.substeps), 0
        first, episodes = self._value('seed'), self._value('episodes')
        due, seed = time.perf_counter_ns(), first
        self._begin(robot, seed)
        while not self.finished.is_set():
            self._observe(robot, tick)
            robot.substep(self._target(due))
            due, tick = due + step_ns, tick + 1
            self.finished.wait(max(0, due - time.perf_counter_ns()) / 1e9)
            if tick % self._task.substeps == 0 and self._step(robot):
                seed += 1
                if seed - first == episodes:
                    self.finished.set()
                else:
                    self._begin(robot, seed)

    def _begin(self, robot: SimulatedRobot, seed: int) -> None:
        """Start an episode; actions count from when the policy has forgotten the last one."""
        robot.reset(seed)
        self._account, self._rest = Account(seed, task=self._task), robot.state
        if self._policy is not None and self._policy.service_is_ready():
            self._deaf_until = time.perf_counter_ns() + RESET_PATIENCE_NS
            self._policy.call_async(Trigger.Request()).add_done_callback(self._hear)
        self._targets = {}

    def _hear(self, _: object) -> None:
        self._deaf_until = 0

    def _target(self, now_ns: int) -> np.ndarray:
        """Return where the joints are told to be, [A]; those that are told nothing stay put."""
        wanted = self._rest.copy()
        for kind, target in list(self._targets.items()):
            wanted[self._columns[kind]] = target.at(now_ns)
        return wanted

    def _step(self, robot: SimulatedRobot) -> bool:
        """Account for a control step; return whether the episode is over."""
        assert self._account is not None
        progress = robot.progress()
        over = self._account.step(progress)
        self._progress.publish(Float64(data=progress))
        if over:
            self._tell_episode(complete=True)
            self._account = None
        return over

    def _tell_episode(self, complete: bool) -> None:
        assert self._account is not None
        self._episode.publish(String(data=json.dumps(self._account.to_json(complete))))

    def _observe(self, robot: SimulatedRobot, tick: int) -> None:
        """Publish what is seen and felt at one instant, under one stamp."""
        stamp = self.get_clock().now().to_msg()
        if tick % self._task.substeps == 0:
            joints = JointState(name=list(self._task.joints), position=robot.state.tolist(),
                                velocity=robot.velocity.tolist())
            joints.header.stamp = stamp
            self._joints.publish(joints)
        for camera in self._cameras:
            camera.observe(robot, tick, stamp)
