"""Faults are told on their edge, once each; what makes up new ones is not followed for ever."""

import pytest

pytest.importorskip('rclpy', reason='the messages come with ROS 2')
from fakes import make_loop  # noqa: E402
from sensor_msgs.msg import JointState  # noqa: E402

from diffusion_policy_rt.ros.complaints import KINDS, RECOVERED, Complaints  # noqa: E402
from diffusion_policy_rt.ros.intake import STATE, Intake  # noqa: E402


@pytest.fixture
def told():
    return []


@pytest.fixture
def complaints(told):
    return Complaints(told.append, told.append)


def test_a_fault_is_told_once_until_all_was_well_for_long(complaints, told):
    for _ in range(5):
        complaints.bad('camera', 'too old by 3 ms')
    assert told == ['camera: too old by 3 ms'] and complaints.counts['camera'] == 5
    for _ in range(RECOVERED):
        complaints.good('camera')
    complaints.bad('camera', 'too old by 4 ms')
    assert told[1:] == ['camera: works again', 'camera: too old by 4 ms']


def test_of_faults_that_are_new_each_time_the_first_are_told_and_all_counted(complaints, told):
    for k in range(1000):
        complaints.bad('camera', 'encoding ' + 'x' * k)
    assert len(told) == KINDS and complaints.counts['camera'] == 1000


def test_a_message_that_nothing_foresaw_costs_the_message_and_is_told(complaints, told):
    intake = Intake(make_loop(), complaints)
    assert not intake.state(JointState(name=['a'], position=[1.0]), 0)
    assert not intake.state(object(), 0)
    assert intake.dropped[STATE] == 2 and 'AttributeError' in told[-1]
