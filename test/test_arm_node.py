"""The simulated arm over real topics: two cameras of two rates, and a gripper told apart."""

import dataclasses
import importlib.util
import json

import numpy as np
import pytest
from ros_rig import PATIENCE_S, Spinning, overrides

for package in ('mujoco', 'gymnasium_robotics'):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f'{package} is not installed: pip install "diffusion_policy_rt[arm]"',
                    allow_module_level=True)

from builtin_interfaces.msg import Duration  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.node import Node  # noqa: E402
from sensor_msgs.msg import Image, JointState  # noqa: E402
from std_msgs.msg import Float64, Float64MultiArray, String  # noqa: E402
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint  # noqa: E402

from diffusion_policy_rt.errors import DprtError, SpecError  # noqa: E402
from diffusion_policy_rt.ros.sim_node import SimNode  # noqa: E402
from diffusion_policy_rt.sim.tasks import ARM  # noqa: E402


class Tester(Node):
    """Sees what the arm publishes and sends it actions."""

    def __init__(self, context):
        super().__init__('tester', context=context)
        self.order, self.joints, self.progress = [], [], []
        for name in ARM.cameras:
            self.create_subscription(Image, f'camera/{name}/image_raw',
                                     lambda msg, name=name: self.order.append(name), 50)
        self.create_subscription(JointState, 'joint_states', self.joints.append, 50)
        self.create_subscription(Float64, 'arm/progress', self.progress.append, 50)
        self.arm = self.create_publisher(JointTrajectory, 'action', 1)
        self.gripper = self.create_publisher(Float64MultiArray, 'fingers', 1)
        self._executor = SingleThreadedExecutor(context=context)
        self._executor.add_node(self)

    def until(self, condition):
        for _ in range(20 * PATIENCE_S):
            if condition():
                return
            self._executor.spin_once(timeout_sec=0.05)
        raise AssertionError('waited in vain')

    def position(self):
        return dict(zip(self.joints[-1].name, self.joints[-1].position))


@pytest.fixture
def tester(context):
    made = Tester(context)
    yield made
    made._executor.shutdown()
    made.destroy_node()


@pytest.fixture
def make_arm(context):
    try:
        ARM.make().look('front', 96, 96)
    except DprtError as error:
        pytest.skip(str(error))
    made = []

    def make(task=ARM, **values):
        made.append(Spinning(SimNode(task, context=context,
                                     parameter_overrides=overrides(values))))
        return made[-1].node

    yield make
    for spinning in made:
        spinning.close()


def test_each_camera_has_its_own_rate(tester, make_arm):
    make_arm(**{'cameras.front.rate': 20.0, 'cameras.wrist.rate': 10.0})
    tester.until(lambda: tester.order.count('wrist') > 8 and tester.progress)
    seen = np.array(tester.order)
    first, last = np.flatnonzero(seen == 'wrist')[[0, -1]]
    between = (seen[first:last] == 'front').sum() / (seen[first:last] == 'wrist').sum()
    assert between == pytest.approx(2, abs=0.3)


def test_each_episode_is_told_when_it_ends(tester, make_arm):
    told = []
    tester.create_subscription(String, 'arm/episode', lambda m: told.append(json.loads(m.data)), 5)
    make_arm(dataclasses.replace(ARM, max_steps=5), seed=7, episodes=2)
    tester.until(lambda: len(told) == 2)
    assert [(e['seed'], e['steps'], e['complete'], e['success']) for e in told] == [
        (7, 5, True, False), (8, 5, True, False)]


def test_a_rate_that_no_tick_has_is_refused(make_arm):
    with pytest.raises(SpecError, match='cameras.front.rate is 30 Hz; it must divide 100'):
        make_arm(**{'cameras.front.rate': 30.0})


def test_arm_and_gripper_obey_topics_of_their_own(tester, make_arm):
    make_arm(gripper_topic='fingers')
    tester.until(lambda: tester.joints and tester.gripper.get_subscription_count()
                 and tester.arm.get_subscription_count())
    start = tester.position()
    tester.gripper.publish(Float64MultiArray(data=[0.01]))
    tester.until(lambda: abs(tester.position()[ARM.joints[-1]] - 0.01) < 2e-3)
    assert all(abs(tester.position()[name] - start[name]) < 0.02 for name in ARM.joints[:-1])
    names = list(reversed(ARM.joints[:-1]))
    goal = {name: start[name] + 0.1 for name in names}
    tester.arm.publish(JointTrajectory(joint_names=names, points=[JointTrajectoryPoint(
        positions=[goal[name] for name in names], time_from_start=Duration(sec=1))]))
    tester.until(lambda: all(abs(tester.position()[n] - goal[n]) < 0.01 for n in names))
    assert abs(tester.position()[ARM.joints[-1]] - 0.01) < 3e-3
