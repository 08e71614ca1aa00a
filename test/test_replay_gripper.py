"""A bag in which the gripper has a topic of its own: its commands are compared like the arm's."""

import bags
import numpy as np
import pytest
from fakes import ACTIONS, MS, START, STEP, tiny_spec
from test_replay import replay

from diffusion_policy_rt.errors import DataError
from diffusion_policy_rt.replay.measures import figures
from diffusion_policy_rt.replay.recorded import Matcher

ARRAY, CLAW = 'std_msgs/msg/Float64MultiArray', '/policy/gripper_action'


def array(values):
    """Return a message of these values, which names none of them."""
    layout = bags.make(bags.TYPES, 'std_msgs/msg/MultiArrayLayout', dim=[], data_offset=0)
    return bags.make(bags.TYPES, ARRAY, layout=layout, data=np.asarray(values, float))


def apart(named=True, every=1, topic=CLAW):
    """Return the messages of a run whose second action is on a topic of its own."""
    found, k = [], 0
    for name, kind, at, message in bags.messages():
        if name != bags.ACTION:
            found.append((name, kind, at, message))
            continue
        both = message.points[0].positions
        message.joint_names, message.points[0].positions = [ACTIONS[0]], both[:1]
        found.append((name, kind, at, message) if named else (name, ARRAY, at, array(both[:1])))
        if k % every == 0:
            found.append((topic, ARRAY, at + MS, array(both[1:])))
        k += 1
    return found


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    return replay(bags.write(tmp_path_factory.mktemp('bags') / 'whole', bags.messages()))[0]


def test_the_error_is_that_of_actions_on_one_topic(whole, tmp_path):
    lines, _ = replay(bags.write(tmp_path / 'bag', apart()))
    assert [line['recorded'] for line in lines] == [line['recorded'] for line in whole]
    told = figures(lines, tiny_spec().action, 10.0)
    assert told['matched'] > 20 and told['action_error'].keys() == set(ACTIONS)
    assert told == figures(whole, tiny_spec().action, 10.0)


def test_a_command_of_the_gripper_stands_until_the_next(whole, tmp_path):
    lines, _ = replay(bags.write(tmp_path / 'bag', apart(every=10)))
    done = [bags.operated(START + k * STEP).tolist() for k in range(30)]
    ticks = [done.index(line['recorded']) for line in whole if line['recorded']]
    assert len(ticks) > 20
    assert [line['recorded'] for line in lines if line['recorded']] == [
        [done[k][0], done[k // 10 * 10][1]] for k in ticks]


@pytest.mark.parametrize('topic', [CLAW, '/gripper_controller/commands'])
def test_messages_without_names_are_told_by_the_user(whole, tmp_path, topic):
    path = bags.write(tmp_path / 'bag', apart(named=False, topic=topic))
    told = [f'gripper_action={topic}']
    with pytest.raises(DataError, match='--gripper NAME'):
        replay(path, told=told)
    lines, _ = replay(path, told=told, gripper=[ACTIONS[1]])
    assert [line['recorded'] for line in lines] == [line['recorded'] for line in whole]


@pytest.mark.parametrize(('gripper', 'said'), [
    (['claw'], 'some, not all'), (ACTIONS, 'some, not all'),
    (ACTIONS[1:], 'gripper_action=TOPIC')])
def test_names_that_do_not_fit_are_refused(tmp_path, gripper, said):
    path = bags.write(tmp_path / 'bag', bags.messages(ticks=3))
    with pytest.raises(DataError, match=said):
        replay(path, gripper=gripper)


def test_a_tick_of_a_recorded_run_is_held_against_its_own_command():
    matcher = Matcher(STEP, [[1], [0]])
    matcher.follow()
    for k in range(3):  # each recorded late within its period, nearer to the tick after it
        for part in (0, 1):
            matcher.push(k * STEP + 90 * MS, np.array([k + 0.5 * part]), part)
    assert [matcher.nearest(k * STEP).tolist() for k in range(3)] == [[0.5, 0], [1.5, 1], [2.5, 2]]
