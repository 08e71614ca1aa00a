"""The launch files, run by launch itself: actions flow and every process ends clean."""

import itertools
import json
import os
import threading
import time

import pytest

rclpy = pytest.importorskip('rclpy', reason='launching needs ROS 2')
launch_pytest = pytest.importorskip(
    'launch_pytest', reason='launch_pytest is not installed; on a ROS 2 machine: '
                            'apt install ros-$ROS_DISTRO-launch-pytest')
pytest.importorskip('gym_pusht', reason='the simulated robot needs gym-pusht')
os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'

import launch  # noqa: E402
from launch.launch_description_sources import PythonLaunchDescriptionSource  # noqa: E402
from launch_testing.util import KeepAliveProc  # noqa: E402
from lifecycle_msgs.srv import GetState  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.node import Node  # noqa: E402
from std_msgs.msg import Float64MultiArray, String  # noqa: E402
from trajectory_msgs.msg import JointTrajectory  # noqa: E402

from diffusion_policy_rt.engines.bundle import MANIFEST, resolve  # noqa: E402
from diffusion_policy_rt.runtime.trace import Rung, read_values  # noqa: E402
from diffusion_policy_rt.share import find  # noqa: E402

POLICY = os.environ.get('DPRT_TEST_POLICY', '')
if not (resolve(POLICY) / MANIFEST).is_file():
    pytest.skip('no bundle to launch; name one in DPRT_TEST_POLICY', allow_module_level=True)
PATIENCE_S = 60
DOMAINS = itertools.count(os.getpid())


def description(name, **arguments):
    # a domain each: what the last test's nodes still say must not reach the next
    os.environ['ROS_DOMAIN_ID'] = str(1 + next(DOMAINS) % 100)
    return launch.LaunchDescription([
        launch.actions.IncludeLaunchDescription(
            PythonLaunchDescriptionSource(str(find(f'launch/{name}.launch.py'))),
            launch_arguments={'policy': POLICY, **arguments}.items()),
        KeepAliveProc(), launch_pytest.actions.ReadyToTest()])


@launch_pytest.fixture
def demo():
    return description('demo')


@launch_pytest.fixture
def policy_alone():
    return description('policy', namespace='left', params_file=str(find('config/policy.yaml')))


@launch_pytest.fixture
def not_started():
    return description('policy', autostart='false')


class Listener:
    """A node that spins in a thread of its own."""

    def __init__(self, *topics):
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = Node('listener', context=self.context)
        self.messages = {topic: [] for topic, _ in topics}
        for topic, kind in topics:
            self.node.create_subscription(kind, topic, self.messages[topic].append, 50)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._spin, daemon=True)
        self.thread.start()

    def _spin(self):
        while not self.done.is_set():
            self.executor.spin_once(timeout_sec=0.05)

    def until(self, condition, what):
        end = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < end, f'waited in vain for {what}'
            time.sleep(0.02)

    def state(self, node):
        """Return the state of a managed node; '' when it does not answer yet."""
        client = self.node.create_client(GetState, f'{node}/get_state')
        try:
            if not client.wait_for_service(1.0):
                return ''
            future = client.call_async(GetState.Request())
            end = time.monotonic() + 2
            while not future.done() and time.monotonic() < end:
                time.sleep(0.01)
            return future.result().current_state.label if future.done() else ''
        finally:
            self.node.destroy_client(client)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.done.set()
        self.thread.join()
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.try_shutdown(context=self.context)


@pytest.mark.launch(fixture=demo)
def test_the_demo_acts_on_fresh_plans():
    topics = [('/policy/action', JointTrajectory), ('/policy/timing', Float64MultiArray)]
    with Listener(*topics) as listener:
        actions, timing = (listener.messages[topic] for topic, _ in topics)
        listener.until(lambda: len(actions) >= 10, 'actions')
        listener.until(lambda: any(read_values(m.data).rung == Rung.FRESH for m in timing),
                       'a fresh plan')
        assert actions[-1].joint_names == ['x', 'y'] and listener.state('/policy') == 'active'


@pytest.mark.launch(fixture=demo)
def test_an_interrupted_demo_tells_its_episode():
    with Listener(('/pusht/episode', String), ('/policy/action', JointTrajectory)) as listener:
        # some periods of motion: until then the robot may not have discovered the listener
        listener.until(lambda: len(listener.messages['/policy/action']) >= 10, 'actions')
        yield  # launch interrupts the processes; what follows runs once they have ended
        listener.until(lambda: listener.messages['/pusht/episode'], 'the episode')
        assert json.loads(listener.messages['/pusht/episode'][-1].data)['complete'] is False
        assert len(listener.messages['/policy/action'][-1].points) == 1, 'the last one holds'


@pytest.mark.launch(fixture=policy_alone)
def test_a_namespaced_policy_becomes_active_and_tells_its_ticks():
    with Listener(('/left/policy/timing', Float64MultiArray)) as listener:
        listener.until(lambda: len(listener.messages['/left/policy/timing']) >= 3, 'ticks')
        assert {read_values(m.data).rung for m in listener.messages['/left/policy/timing']} == {
            Rung.STOP}  # no camera
        assert listener.state('/left/policy') == 'active'


@pytest.mark.launch(fixture=not_started)
def test_without_autostart_the_node_waits_for_its_manager():
    with Listener() as listener:
        listener.until(lambda: listener.state('/policy') == 'unconfigured', 'the node')
