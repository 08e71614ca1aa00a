"""Actions to commands: names, due times, and what is refused before anything moves."""

import numpy as np
import pytest
from fakes import ACTIONS
from hypothesis import given
from hypothesis import strategies as st

from diffusion_policy_rt.errors import SpecError

pytest.importorskip('rclpy', reason='the message classes come with ROS 2')
from builtin_interfaces.msg import Duration, Time  # noqa: E402
from rclpy.serialization import deserialize_message  # noqa: E402
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint  # noqa: E402

from diffusion_policy_rt.ros.bag import to_cdr  # noqa: E402
from diffusion_policy_rt.ros.outputs import OUTPUTS, check_finite, make_output  # noqa: E402
from diffusion_policy_rt.ros.packed import PackedTrajectory  # noqa: E402

STAMP = Time(sec=5, nanosec=7)
CHUNK = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])


def make(action_type, fields=ACTIONS, names=ACTIONS, rate=10.0, frame_id=''):
    return make_output(action_type, fields, names, rate, frame_id)


def trajectory(chunk, **options):
    return read(make('joint_trajectory', **options).to_message(chunk, STAMP))


def read(data):
    return deserialize_message(data, JointTrajectory)


def test_a_trajectory_holds_the_rest_of_the_chunk_by_due_time():
    msg = trajectory(CHUNK, rate=4.0)
    assert msg.joint_names == list(ACTIONS)
    assert [list(point.positions) for point in msg.points] == CHUNK.tolist()
    due = [p.time_from_start.sec + p.time_from_start.nanosec / 1e9 for p in msg.points]
    assert due == [0.25, 0.5, 0.75]
    assert (msg.header.stamp.sec, msg.header.stamp.nanosec) == (0, 0)


def test_the_due_time_of_a_point_carries_into_seconds():
    msg = trajectory(np.zeros((12, 2)))
    due = [(p.time_from_start.sec, p.time_from_start.nanosec) for p in msg.points]
    assert due[8:] == [(0, 900_000_000), (1, 0), (1, 100_000_000), (1, 200_000_000)]


def test_a_shorter_chunk_leaves_nothing_of_a_longer_one():
    output = make('joint_trajectory', rate=4.0)
    for rows in (12, 1, 3):
        chunk = np.arange(2.0 * rows).reshape(rows, 2)
        msg = read(output.to_message(chunk, STAMP))
        assert [list(point.positions) for point in msg.points] == chunk.tolist()
    assert [p.time_from_start.nanosec for p in msg.points] == [250000000, 500000000, 750000000]


names = st.lists(st.text(st.characters(codec='utf-8', exclude_characters='\0'), max_size=9),
                 min_size=1, max_size=4)


@given(names, st.text('abcdefg', max_size=9), st.integers(1, 17), st.integers(1, 3 * 10**9))
def test_the_bytes_are_those_of_a_message_that_is_made_of_its_parts(joints, frame, count, step):
    chunk = np.random.default_rng(count).normal(size=(count, len(joints)))
    made = PackedTrajectory(joints, frame, step, count).of(chunk)
    points = [JointTrajectoryPoint(positions=row, time_from_start=Duration(
        sec=k * step // 10**9, nanosec=k * step % 10**9)) for k, row in enumerate(chunk, 1)]
    plain = JointTrajectory(joint_names=joints, points=points)
    plain.header.frame_id = frame
    assert read(made) == plain
    assert made == to_cdr(plain, 'trajectory_msgs/msg/JointTrajectory')


def test_action_fields_rename_joints_and_keep_their_order():
    msg = trajectory(CHUNK, fields=('cart_y', 'cart_x'))
    assert msg.joint_names == ['cart_y', 'cart_x']
    assert list(msg.points[0].positions) == [1.0, 2.0]


def test_an_array_holds_the_values_due_now():
    assert list(make('float64_multi_array').to_message(CHUNK, STAMP).data) == [1.0, 2.0]


def test_a_twist_fills_the_named_components_and_leaves_the_others_zero():
    output = make('twist_stamped', ('linear.y', 'angular.z'), frame_id='base_link')
    msg = output.to_message(CHUNK, STAMP)
    assert (msg.twist.linear.x, msg.twist.linear.y, msg.twist.angular.z) == (0.0, 1.0, 2.0)
    assert (msg.header.frame_id, msg.header.stamp) == ('base_link', STAMP)
    assert output.velocity


@pytest.mark.parametrize('fields', [('x', 'z'), ('position.x', 'position.z')])
def test_a_pose_without_orientation_is_upright(fields):
    pose = make('pose_stamped', fields).to_message(CHUNK, STAMP).pose
    assert (pose.position.x, pose.position.y, pose.position.z) == (1.0, 0.0, 2.0)
    assert pose.orientation.w == 1.0


def test_an_orientation_is_made_a_rotation():
    names = tuple('abcd')
    output = make('pose_stamped', tuple(f'orientation.{a}' for a in 'wxyz'), names)
    turned = output.to_message(np.array([[0.0, 3.0, 0.0, 4.0]]), STAMP).pose.orientation
    assert (turned.x, turned.y, turned.z, turned.w) == pytest.approx((0.6, 0.0, 0.8, 0.0))
    with pytest.raises(SpecError, match='no rotation'):
        output.to_message(np.zeros((1, 4)), STAMP)


@pytest.mark.parametrize(('action_type', 'fields', 'told'), [
    ('servo', ACTIONS, "action_type 'servo': use one of joint_trajectory, float64_multi_array"),
    ('joint_trajectory', ('a',), 'must be 2 distinct names, one per action'),
    ('joint_trajectory', ('a', 'a'), 'must be 2 distinct names'),
    ('twist_stamped', ('linear.x', 'joint_2'), "'joint_2' does not fit .* linear.x, linear.y"),
    ('pose_stamped', ('position.x', 'linear.x'), "'linear.x' does not fit .* position.x"),
    ('pose_stamped', ('x', 'orientation.z'), 'an orientation needs all of orientation.x'),
])
def test_what_does_not_fit_is_refused_with_what_is_accepted(action_type, fields, told):
    with pytest.raises(SpecError, match=told):
        make(action_type, fields)


@pytest.mark.parametrize('action_type', OUTPUTS)
def test_every_type_says_whether_it_moves_by_velocity(action_type):
    fields = ('linear.x', 'linear.y') if action_type == 'twist_stamped' else ('x', 'y')
    output = make(action_type, fields)
    assert output.velocity is (action_type == 'twist_stamped')
    message = output.to_message(CHUNK, STAMP)
    assert isinstance(read(message) if isinstance(message, bytes) else message, output.message)


@pytest.mark.parametrize('bad', [[[np.nan, 1.0]], [[1.0, np.inf]], np.empty((0, 2))])
def test_a_value_that_is_not_finite_stops_the_whole_action(bad):
    with pytest.raises(SpecError, match='not finite'):
        check_finite(np.array(bad))
    check_finite(CHUNK)
