"""A gripper with a controller of its own: which values leave where, over real topics."""

import numpy as np
import pytest
from fakes import ACTIONS
from ros_rig import CONFIGURE, drive, overrides

pytest.importorskip('rclpy', reason='the message classes come with ROS 2')
from rclpy.qos import QoSProfile  # noqa: E402
from std_msgs.msg import Float64MultiArray  # noqa: E402
from rclpy.serialization import deserialize_message  # noqa: E402
from trajectory_msgs.msg import JointTrajectory  # noqa: E402

from diffusion_policy_rt.errors import SpecError  # noqa: E402
from diffusion_policy_rt.ros.policy_params import defaults  # noqa: E402
from diffusion_policy_rt.ros.params import freeze  # noqa: E402
from diffusion_policy_rt.ros.routes import make_routes  # noqa: E402

APART = ACTIONS[1]
ARM = [name for name in ACTIONS if name != APART]


def routes(bundle, **values):
    chosen = freeze({**defaults(bundle.spec), **values}, bundle.spec)
    return make_routes(chosen, bundle.spec.action.names, bundle.spec.rate)


def test_without_one_all_values_leave_on_one_topic(bundle):
    only, = routes(bundle)
    assert only.name == 'action' and only.columns == list(range(len(ACTIONS)))


@pytest.mark.parametrize(('values', 'told'), [
    ({'gripper.actions': ['claw']}, "no action 'claw'; its actions are"),
    ({'gripper.actions': list(ACTIONS)}, 'leave at least one'),
    ({'gripper.actions': [APART], 'action_type': 'twist_stamped',
      'action_fields': ['linear.x', 'linear.y']}, 'go with positions'),
    ({'gripper.actions': [APART], 'action_fields': ['a']}, 'must be 2 distinct names')])
def test_what_does_not_fit_the_policy_is_refused(bundle, values, told):
    with pytest.raises(SpecError, match=told):
        routes(bundle, **values)


@pytest.mark.parametrize('kind', ['float64_multi_array', 'joint_trajectory'])
def test_each_value_leaves_once_under_its_name(bundle, kind):
    actions = np.arange(6.0).reshape(3, 2)
    made = routes(bundle, **{'gripper.actions': [APART], 'gripper.action_type': kind,
                             'action_fields': ['shoulder', 'claw']})
    arm, claw = (route.output.to_message(actions[:, route.columns], None) for route in made)
    arm = deserialize_message(arm, JointTrajectory)
    assert arm.joint_names == ['shoulder'] and [p.positions[0] for p in arm.points] == [0, 2, 4]
    if kind == 'joint_trajectory':
        claw = deserialize_message(claw, JointTrajectory)
        assert claw.joint_names == ['claw'] and [p.positions[0] for p in claw.points] == [1, 3, 5]
    else:
        assert list(claw.data) == [1]


@pytest.fixture
def claw(robot):
    """Return what the robot hears on the gripper's two topics."""
    heard = {'gripper_action': [], 'shadow_gripper_action': []}
    for topic, store in heard.items():
        robot.create_subscription(Float64MultiArray, f'/policy/{topic}', store.append,
                                  QoSProfile(depth=50))
    return heard


def test_arm_and_gripper_are_told_in_the_same_ticks(robot, make_node, claw):
    drive(robot, make_node, enable_output=True, **{'gripper.actions': [APART]})
    robot.until(lambda: len(claw['gripper_action']) > 5 and len(robot.actions) > 5, 'actions')
    assert all(msg.joint_names == ARM for msg in robot.actions)
    assert all(len(msg.data) == 1 for msg in claw['gripper_action'])
    assert abs(len(robot.actions) - len(claw['gripper_action'])) <= 1
    assert not claw['shadow_gripper_action'] and not robot.shadows


def test_a_dry_run_tells_the_gripper_nothing_and_closing_ends_in_its_hold(robot, make_node, claw):
    node = drive(robot, make_node, **{'gripper.actions': [APART]})
    robot.until(lambda: len(claw['shadow_gripper_action']) > 3, 'shadow actions')
    assert not claw['gripper_action']
    node.set_parameters(overrides({'enable_output': True}))
    robot.until(lambda: claw['gripper_action'], 'actions')
    node.set_parameters(overrides({'enable_output': False}))
    measured = dict(zip(robot.names, robot.position))[APART]
    robot.until(lambda: list(claw['gripper_action'][-1].data) == [measured], 'the hold')


def test_another_node_on_the_grippers_topic_is_a_rival(robot, make_node):
    make_node(enable_output=True, **{'gripper.actions': [APART]})
    robot.create_publisher(Float64MultiArray, '/policy/gripper_action', 1)
    robot.start()
    assert robot.transit(CONFIGURE)
    node_sees = robot.count_publishers('/policy/gripper_action')
    robot.until(lambda: robot.count_publishers('/policy/gripper_action') == 2, 'both')
    assert not robot.transit(3) and node_sees >= 1


def test_a_gripper_may_have_a_trajectory_controller(robot, make_node):
    heard = []
    robot.create_subscription(JointTrajectory, '/policy/shadow_gripper_action', heard.append, 50)
    drive(robot, make_node, **{'gripper.actions': [APART],
                               'gripper.action_type': 'joint_trajectory'})
    robot.until(lambda: len(heard) > 2, 'shadow actions')
    assert all(msg.joint_names == [APART] for msg in heard)
    assert len(heard[-1].points) == len(robot.shadows[-1].points)
