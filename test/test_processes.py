"""A transition whose answer is lost is asked again; one that was made is not."""

import pytest

pytest.importorskip('rclpy', reason='nodes need ROS 2')

from lifecycle_msgs.msg import State, Transition  # noqa: E402
from lifecycle_msgs.srv import ChangeState, GetState  # noqa: E402

from diffusion_policy_rt.errors import DprtError  # noqa: E402
from diffusion_policy_rt.ros import processes  # noqa: E402

UNCONFIGURED, INACTIVE = State.PRIMARY_STATE_UNCONFIGURED, State.PRIMARY_STATE_INACTIVE


class Dead:
    """A process that says why."""

    running = True

    @staticmethod
    def last_line():
        """Return its last line."""
        return 'no such engine'


def answers(monkeypatch, *given):
    """Let the services answer so, in turn; return what they are asked."""
    asked, left = [], list(given)

    def call(node, kind, name, request):
        asked.append(kind)
        answer = left.pop(0)
        return answer if answer is None or kind is ChangeState else GetState.Response(
            current_state=State(id=answer))

    monkeypatch.setattr(processes, '_call', call)
    return asked


def configure():
    processes.change_state(None, '/policy', Transition.TRANSITION_CONFIGURE, Dead)


DONE, REFUSED = ChangeState.Response(success=True), ChangeState.Response(success=False)


def test_a_lost_request_is_asked_again(monkeypatch):
    asked = answers(monkeypatch, None, UNCONFIGURED, DONE)
    configure()
    assert asked == [ChangeState, GetState, ChangeState]


def test_a_lost_answer_is_not(monkeypatch):
    asked = answers(monkeypatch, None, INACTIVE)
    configure()
    assert asked == [ChangeState, GetState]


def test_a_process_that_ended_is_not_waited_for(monkeypatch):
    asked = answers(monkeypatch, None)
    monkeypatch.setattr(Dead, 'running', False)
    with pytest.raises(DprtError, match='did not start: no such engine'):
        configure()
    assert asked == [ChangeState]


@pytest.mark.parametrize('given, told', [
    ((REFUSED,), 'did not follow: no such engine'),
    ((None, None) * processes.ATTEMPTS, 'did not start: no such engine')])
def test_what_a_node_logged_is_told_when_it_does_not(monkeypatch, given, told):
    answers(monkeypatch, *given)
    with pytest.raises(DprtError, match=told):
        configure()
