"""A ROS 2 graph of its own for each test file: the node under test, and a robot to talk to it."""

import json
import os
import subprocess
import sys
import threading
import time
from array import array

import pytest

rclpy = pytest.importorskip('rclpy', reason='the nodes need ROS 2')
os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
os.environ['ROS_DOMAIN_ID'] = str(1 + os.getpid() % 100)

import cv2  # noqa: E402
import numpy as np  # noqa: E402
from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402
from lifecycle_msgs.msg import Transition  # noqa: E402
from lifecycle_msgs.srv import ChangeState, GetState  # noqa: E402
from rcl_interfaces.srv import SetParametersAtomically  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.node import Node  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from rclpy.qos import DurabilityPolicy, QoSProfile  # noqa: E402
from sensor_msgs.msg import CompressedImage, Image, JointState  # noqa: E402
from std_msgs.msg import Float64MultiArray, String  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402
from trajectory_msgs.msg import JointTrajectory  # noqa: E402

from diffusion_policy_rt.runtime.trace import Rung, read_values  # noqa: E402

PATIENCE_S = 60
"""Long, because a busy machine may be slow; every wait ends with an event, not with this."""
SIZE = (45, 57)
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
CONFIGURE, CLEANUP = Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_CLEANUP
ACTIVATE, DEACTIVATE = Transition.TRANSITION_ACTIVATE, Transition.TRANSITION_DEACTIVATE
FRESH = (Rung.FRESH, Rung.FEWER)
QUICK = {'control_rate': 20.0, 'deadline': 0.05, 'n_action_steps': 1, 'max_steps': 2}


class Robot(Node):
    """Two cameras and three joints at 20 Hz; `faults` bends a camera, or `joints`, by name."""

    def __init__(self, **options):
        super().__init__('robot', **options)
        self.names, self.position = ['grip', 'y', 'x'], [0.5, 0.25, -0.75]
        self.faults, self.images = {}, 0
        self.cameras = {name: self.create_publisher(Image, f'camera/{name}/image_raw', 5)
                        for name in ('front', 'wrist')}
        self.compressed = {
            name: self.create_publisher(CompressedImage, f'camera/{name}/image_raw/compressed', 5)
            for name in ('front', 'wrist')}
        self.joints = self.create_publisher(JointState, 'joint_states', 5)
        self.actions, self.shadows, self.ticks = [], [], []
        self.layouts, self.infos, self.diagnostics = [], [], []
        for kind, topic, store, qos in (
                (JointTrajectory, '/policy/action', self.actions.append, 50),
                (JointTrajectory, '/policy/shadow_action', self.shadows.append, 50),
                (Float64MultiArray, '/policy/timing', self._tick, 50),
                (String, '/policy/policy_info', self._info, LATCHED),
                (DiagnosticArray, '/diagnostics', self.diagnostics.append, 10)):
            self.create_subscription(kind, topic, store, qos)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._feed, daemon=True)

    def _tick(self, msg):
        self.layouts.append(msg.layout)
        self.ticks.append(read_values(msg.data))

    def _info(self, msg):
        self.infos.append(json.loads(msg.data))

    # -- streams -------------------------------------------------------------------------------

    def start(self):
        self._thread.start()

    def _feed(self):
        while not self._done.wait(0.05):
            self.publish_once()

    def publish_once(self, stamp=None):
        stamp = stamp or self.get_clock().now().to_msg()
        for name in self.cameras:
            if self.faults.get('silent') != name:
                self._publish_image(name, stamp)
        joints = JointState(name=list(self.names), position=list(self.position))
        joints.header.stamp = stamp
        self.faults.get('joints', lambda msg: None)(joints)
        self.joints.publish(joints)

    def _publish_image(self, name, stamp):
        self.images += 1
        pixels = np.full((*SIZE, 3), 90 + self.images % 16, np.uint8)
        msg = Image(height=SIZE[0], width=SIZE[1], step=3 * SIZE[1], encoding='rgb8',
                    data=array('B', pixels.tobytes()))
        msg.header.stamp = stamp
        self.faults.get(name, lambda msg: None)(msg)
        self.cameras[name].publish(msg)
        png = CompressedImage(header=msg.header, format='png')
        png.data.frombytes(cv2.imencode('.png', pixels)[1])
        self.compressed[name].publish(png)

    # -- waiting -------------------------------------------------------------------------------

    def until(self, condition, what='the condition'):
        """Spin until the condition holds; fail after a long time without it."""
        end = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < end, f'waited in vain for {what}'
            self._executor.spin_once(timeout_sec=0.05)

    def more(self, messages, count):
        """Spin until `count` more messages have come."""
        wanted = len(messages) + count
        self.until(lambda: len(messages) >= wanted, f'{count} messages')

    def call(self, kind, name, request):
        client = self.create_client(kind, name)
        self.until(client.service_is_ready, name)
        future = client.call_async(request)
        self.until(future.done, f'an answer of {name}')
        self.destroy_client(client)
        return future.result()

    def set_together(self, values):
        """Ask the node for a set of parameters over its service; return the result."""
        request = SetParametersAtomically.Request(
            parameters=[parameter.to_parameter_msg() for parameter in overrides(values)])
        return self.call(SetParametersAtomically, '/policy/set_parameters_atomically',
                         request).result

    def transit(self, transition):
        self.state()  # an answer shows that the node has discovered us, so the next cannot be lost
        request = ChangeState.Request(transition=Transition(id=transition))
        return self.call(ChangeState, '/policy/change_state', request).success

    def state(self):
        client, answers = self.create_client(GetState, '/policy/get_state'), []
        while not answers:  # asked until it answers: what is sent during discovery may be lost
            self.until(client.service_is_ready, 'the node')
            future = client.call_async(GetState.Request())
            end = time.monotonic() + 3
            self.until(lambda f=future, e=end: f.done() or time.monotonic() > e, 'its state')
            answers = [future.result()] if future.done() else []
        self.destroy_client(client)
        return answers[0].current_state.label

    def trigger(self, name):
        return self.call(Trigger, f'/policy/{name}', Trigger.Request())

    def status(self, task):
        """Return the newest diagnostics of a task, once there are some."""
        self.more(self.diagnostics, 1)
        return next(s for s in self.diagnostics[-1].status if s.name == f'policy: {task}')

    def close(self):
        self._done.set()
        if self._thread.is_alive():
            self._thread.join()
        self._executor.shutdown()
        self.destroy_node()


class Spinning:
    """A node under test, spinning in a thread of its own as its main function would."""

    def __init__(self, node):
        self.node = node
        self._executor = SingleThreadedExecutor(context=node.context)
        self._executor.add_node(node)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def _spin(self):
        while not self._done.is_set():
            self._executor.spin_once(timeout_sec=0.05)

    def close(self):
        self._done.set()
        self._thread.join()
        self.node.close()
        self._executor.shutdown()
        self.node.destroy_node()


class Process:
    """A node in a process of its own."""

    def __init__(self, module, log, files=(), **parameters):
        words = [w for file in files for w in ('--params-file', str(file))]
        words += [w for name, value in parameters.items() for w in ('-p', f'{name}:={value}')]
        self.log = log
        with log.open('wb') as file:
            self._process = subprocess.Popen(
                [sys.executable, '-m', f'diffusion_policy_rt.ros.{module}', '--ros-args', *words],
                stdout=file, stderr=subprocess.STDOUT)

    def signal(self, number):
        self._process.send_signal(number)

    def wait(self):
        return self._process.wait(PATIENCE_S)

    def lines(self):
        return self.log.read_text().splitlines()

    def kill(self):
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


def drive(robot, make_node, **values):
    """Return an active node that plans from the robot's streams."""
    node = make_node(**values)
    robot.start()
    assert robot.transit(CONFIGURE) and robot.transit(ACTIVATE)
    return node


def is_hold(msg, robot):
    """Whether a trajectory keeps the robot where it is measured."""
    measured = dict(zip(robot.names, robot.position))
    points = [list(point.positions) for point in msg.points]
    return points == [[measured[name] for name in msg.joint_names]]


def overrides(values):
    return [Parameter(name, value=value) for name, value in values.items()]
