"""The simulated robot over real topics: it waits for nobody, and it obeys actions by due time."""

import dataclasses
import json
import signal

import numpy as np
import pytest
from ros_rig import Process, overrides

pytest.importorskip('gym_pusht', reason='the simulated robot needs gym-pusht')

from builtin_interfaces.msg import Duration  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.node import Node  # noqa: E402
from ros_rig import PATIENCE_S, Spinning  # noqa: E402
from sensor_msgs.msg import CompressedImage, Image, JointState  # noqa: E402
from std_msgs.msg import Float64, Float64MultiArray, String  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint  # noqa: E402

from diffusion_policy_rt.ros.convert import (  # noqa: E402
    compressed_to_rgb, image_to_rgb, joint_state_to_values)
from diffusion_policy_rt.sim.pusht import start_state  # noqa: E402
from diffusion_policy_rt.sim.target import from_trajectory, from_values  # noqa: E402
from diffusion_policy_rt.sim.tasks import PUSHT  # noqa: E402

SEED = 100_007
NAMES = PUSHT.joints


class Policy(Node):
    """Sees what the robot publishes and sends it actions."""

    def __init__(self, context):
        super().__init__('tester', context=context)
        self.images, self.joints, self.coverage, self.episodes = [], [], [], []
        self.pngs, self.resets = [], 0
        for kind, topic, store in (
                (Image, 'camera/front/image_raw', self.images.append),
                (CompressedImage, 'camera/front/image_raw/compressed', self.pngs.append),
                (JointState, 'joint_states', self.joints.append),
                (Float64, 'pusht/coverage', lambda msg: self.coverage.append(msg.data)),
                (String, 'pusht/episode', lambda msg: self.episodes.append(json.loads(msg.data)))):
            self.create_subscription(kind, topic, store, 50)
        self.create_service(Trigger, '/tester/reset', self._reset)
        self.trajectory = self.create_publisher(JointTrajectory, 'action', 1)
        self.values = self.create_publisher(Float64MultiArray, 'values', 1)
        self._executor = SingleThreadedExecutor(context=context)
        self._executor.add_node(self)

    def _reset(self, _, response):
        self.resets += 1
        response.success = True
        return response

    def until(self, condition):
        for _ in range(20 * PATIENCE_S):
            if condition():
                return
            self._executor.spin_once(timeout_sec=0.05)
        raise AssertionError('waited in vain')

    def tool(self):
        return joint_state_to_values(NAMES, self.joints[-1])

    def close(self):
        self._executor.shutdown()
        self.destroy_node()


@pytest.fixture
def policy(context):
    made = Policy(context)
    yield made
    made.close()


@pytest.fixture
def make_robot(context):
    from diffusion_policy_rt.ros.sim_node import SimNode
    made = []

    def make(task=PUSHT, **values):
        made.append(Spinning(SimNode(task, context=context, parameter_overrides=overrides(
            {'seed': SEED, **values}))))
        return made[-1].node

    yield make
    for spinning in made:
        spinning.close()


def trajectory(points, names=NAMES, rate=10.0):
    msg = JointTrajectory(joint_names=list(names))
    for i, row in enumerate(points):
        due = round((i + 1) / rate * 1e9)
        msg.points.append(JointTrajectoryPoint(
            positions=list(row), time_from_start=Duration(sec=due // 10**9, nanosec=due % 10**9)))
    return msg


# -- targets -----------------------------------------------------------------------------------

def test_a_trajectory_is_followed_by_due_time_and_its_last_point_is_held():
    target = from_trajectory(NAMES, trajectory([(1.0, 2.0), (3.0, 4.0), (5.0, 6.0)]), 1000)
    at = [target.at(1000 + ms * 1_000_000)[0] for ms in (0, 99, 100, 199, 200, 299, 300, 5000)]
    assert at == [1, 1, 3, 3, 5, 5, 5, 5]


def test_joints_are_matched_by_name():
    target = from_trajectory(NAMES, trajectory([(9.0, 2.0, 1.0)], ('z', 'y', 'x')), 0)
    np.testing.assert_array_equal(target.at(0), [1, 2])


@pytest.mark.parametrize(('msg', 'told'), [
    (trajectory([(1.0,)], ('x',)), 'joint y is missing from the action; it holds x'),
    (trajectory([]), 'no points'),
    (trajectory([(1.0, np.nan)]), 'not finite'),
    (trajectory([(1.0, 2.0, 3.0)]), 'not as many positions'),
])
def test_an_action_that_cannot_be_followed_is_refused(msg, told):
    with pytest.raises(Exception, match=told):
        from_trajectory(NAMES, msg, 0)


def test_values_are_two():
    target = from_values(NAMES, Float64MultiArray(data=[1.0, 2.0]), 0)
    np.testing.assert_array_equal(target.at(9), [1, 2])
    with pytest.raises(Exception, match='has 3 values; expected x, y'):
        from_values(NAMES, Float64MultiArray(data=[1.0, 2.0, 3.0]), 0)


# -- the node ----------------------------------------------------------------------------------

def test_frames_and_joints_come_in_pairs_of_one_stamp(policy, make_robot):
    make_robot()
    policy.until(lambda: len(policy.images) > 5 and len(policy.coverage) > 5)
    msg = policy.images[-1]
    assert (msg.encoding, msg.header.frame_id) == ('rgb8', 'front')
    assert image_to_rgb(msg).shape == (96, 96, 3)
    stamps = [(m.header.stamp.sec, m.header.stamp.nanosec) for m in policy.joints]
    assert (msg.header.stamp.sec, msg.header.stamp.nanosec) in stamps
    assert list(policy.joints[-1].name) == ['x', 'y'] and len(policy.joints[-1].velocity) == 2


def test_the_robot_stays_put_until_the_first_action(policy, make_robot):
    make_robot()
    policy.until(lambda: len(policy.joints) > 5)
    np.testing.assert_allclose(policy.tool(), start_state(SEED)[:2], atol=1e-6)


def test_the_robot_goes_where_the_last_point_is(policy, make_robot):
    make_robot()
    policy.until(lambda: policy.joints and policy.trajectory.get_subscription_count())
    goal = np.clip(policy.tool() + [40.0, 30.0], 30, 480)
    policy.trajectory.publish(trajectory([goal[::-1]] * 2, NAMES[::-1]))
    policy.until(lambda: np.abs(policy.tool() - goal).max() < 5)


def test_single_values_move_it_too(policy, make_robot):
    make_robot(action_type='float64_multi_array', action_topic='values')
    policy.until(lambda: policy.joints and policy.values.get_subscription_count())
    goal = np.clip(policy.tool() + [-30.0, 40.0], 30, 480)
    policy.values.publish(Float64MultiArray(data=goal.tolist()))
    policy.until(lambda: np.abs(policy.tool() - goal).max() < 5)


def test_a_malformed_action_changes_nothing(policy, make_robot):
    robot = make_robot()
    policy.until(lambda: policy.joints and policy.trajectory.get_subscription_count())
    policy.trajectory.publish(trajectory([(np.nan, 1.0)]))
    policy.until(lambda: robot._complaints.counts['action'] == 1)
    seen = len(policy.joints)
    policy.until(lambda: len(policy.joints) > seen + 3)
    np.testing.assert_allclose(policy.tool(), start_state(SEED)[:2], atol=1e-6)


def test_images_can_be_larger_and_compressed(policy, make_robot):
    make_robot(width=160, height=120, compressed=True)
    policy.until(lambda: policy.images and policy.pngs)
    assert image_to_rgb(policy.images[-1]).shape == (120, 160, 3)
    pairs = [(a, b) for a in policy.images for b in policy.pngs
             if a.header.stamp == b.header.stamp]
    np.testing.assert_array_equal(image_to_rgb(pairs[0][0]), compressed_to_rgb(pairs[0][1]))


def test_episodes_end_after_their_steps_and_the_policy_is_told(policy, make_robot):
    robot = make_robot(dataclasses.replace(PUSHT, max_steps=6), episodes=3,
                       reset_service='/tester/reset')
    policy.until(lambda: len(policy.episodes) == 3)
    assert [e['seed'] for e in policy.episodes] == [SEED, SEED + 1, SEED + 2]
    for episode in policy.episodes:
        assert set(episode) == {'seed', 'max_coverage', 'coverage', 'success', 'steps', 'complete'}
        assert (episode['steps'], episode['complete'], episode['success']) == (6, True, False)
    policy.until(robot.finished.is_set)
    assert policy.resets == 2 or policy.resets == 3  # the first start may precede discovery


def test_actions_do_not_count_until_the_policy_has_forgotten_the_last_episode(policy, make_robot):
    robot = make_robot(reset_service='/tester/reset')
    policy.until(lambda: len(policy.images) > 3 and robot._policy.service_is_ready())
    robot._deaf_until = 2**62
    robot._take('action', trajectory([(100.0, 100.0)]))
    assert not robot._targets
    robot._hear(None)
    robot._take('action', trajectory([(100.0, 100.0)]))
    assert robot._targets


def test_an_interrupted_robot_tells_the_unfinished_episode(policy, tmp_path):
    process = Process('pusht_node', tmp_path / 'log', seed=SEED)
    try:
        policy.until(lambda: len(policy.coverage) > 3)
        process.signal(signal.SIGINT)
        policy.until(lambda: policy.episodes)
        assert policy.episodes[0]['complete'] is False and policy.episodes[0]['seed'] == SEED
        assert process.wait() == 0 and not process.lines()
    finally:
        process.kill()


def test_an_unknown_action_type_ends_the_process_with_one_line(tmp_path):
    process = Process('pusht_node', tmp_path / 'log', action_type='servo')
    try:
        assert process.wait() == 1
        lines = process.lines()
        assert len(lines) == 1 and "action_type 'servo': use one of" in lines[0]
    finally:
        process.kill()
