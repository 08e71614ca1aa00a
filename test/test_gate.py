"""The last hold: where a message holds one action alone, the way to rest is told by and by."""

from copy import deepcopy

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='the message classes come with ROS 2')
from builtin_interfaces.msg import Time  # noqa: E402
from rclpy.serialization import deserialize_message  # noqa: E402
from trajectory_msgs.msg import JointTrajectory  # noqa: E402

from diffusion_policy_rt.ros import gate  # noqa: E402
from diffusion_policy_rt.ros.outputs import make_output  # noqa: E402
from diffusion_policy_rt.ros.routes import Route  # noqa: E402
from diffusion_policy_rt.runtime.loop import Action  # noqa: E402
from diffusion_policy_rt.runtime.trace import Rung  # noqa: E402

NAMES = ['x', 'y', 'claw']
WAY = np.array([[k, 10 + k, 20 + k] for k in range(4)], float)
HOLD = Action(Rung.HOLD, WAY)


class Told:
    """A publisher that remembers, and the node and clock that make it."""

    def __init__(self):
        self.messages, self.slept = {}, []

    def create_publisher(self, kind, topic, qos):
        said = self.messages.setdefault(topic, [])
        return type('Publisher', (), {'publish': lambda _, msg: said.append(deepcopy(msg))})()

    def get_clock(self):
        return self

    def now(self):
        return self

    def to_msg(self):
        return Time()


@pytest.fixture
def told(monkeypatch):
    made = Told()
    monkeypatch.setattr(gate.time, 'sleep', made.slept.append)
    return made


def make(told, arm, enabled=True):
    routes = [Route('action', [0, 1], make_output(arm, NAMES[:2], NAMES[:2], 10.0)),
              Route('gripper_action', [2],
                    make_output('float64_multi_array', NAMES[2:], NAMES[2:], 10.0))]
    return gate.Gate(told, routes, enabled)


def test_single_actions_follow_one_another_to_the_end_of_the_way(told):
    make(told, 'float64_multi_array').hold(HOLD, 0.1)
    assert [list(msg.data) for msg in told.messages['~/action']] == WAY[:, :2].tolist()
    assert [list(msg.data) for msg in told.messages['~/gripper_action']] == WAY[:, 2:].tolist()
    assert told.slept == [0.1] * 3


def test_a_trajectory_is_told_once_and_the_gripper_beside_it_by_and_by(told):
    make(told, 'joint_trajectory').hold(HOLD, 0.1)
    once, = (deserialize_message(data, JointTrajectory) for data in told.messages['~/action'])
    assert [list(point.positions) for point in once.points] == WAY[:, :2].tolist()
    assert [list(msg.data) for msg in told.messages['~/gripper_action']] == WAY[:, 2:].tolist()


def test_a_way_that_takes_too_long_is_cut_and_its_end_told(told):
    make(told, 'float64_multi_array').hold(HOLD, gate.REST_S / 2)
    assert [list(msg.data) for msg in told.messages['~/action']] == WAY[[0, 1, 3], :2].tolist()


@pytest.mark.parametrize('rows', [1, 4])
def test_closing_lets_the_way_to_rest_pass_and_nothing_after_it(told, rows):
    made = make(told, 'float64_multi_array')
    made.enable(False, lambda: Action(Rung.HOLD, WAY[:rows]), 0.1)
    assert len(told.messages['~/action']) == rows
    made.publish(HOLD)
    assert len(told.messages['~/action']) == rows and len(told.messages['~/shadow_action']) == 1


def test_what_does_not_close_the_way_asks_for_no_hold(told):
    made = make(told, 'float64_multi_array')
    for enabled in (True, False, False):
        made.enable(enabled, lambda: HOLD if made._enabled else 1 / 0, 0.1)
    made.enable(True, lambda: 1 / 0, 0.1)
    made.enable(True, lambda: 1 / 0, 0.1)


def test_without_a_hold_nothing_is_told(told):
    make(told, 'float64_multi_array').hold(Action(Rung.STOP, np.empty((0, 3))), 0.1)
    assert not any(told.messages.values()) and not told.slept
