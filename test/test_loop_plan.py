"""When the loop plans, and what it refuses: the old chunk stands and the reason is told."""

import math

import numpy as np
import pytest
from fakes import MS, START, STEP, feed, image_at, make_loop, planned, state_at

from diffusion_policy_rt.errors import FrameError, SpecError
from diffusion_policy_rt.runtime.frame import Frame
from diffusion_policy_rt.runtime.observation import NotReady
from diffusion_policy_rt.runtime.trace import Rung


def next_plan_fails(loop, old):
    """Assert that the plan of the next step is refused and the old chunk stands; its reason."""
    refused = loop.plan(START + STEP)
    assert isinstance(refused, NotReady)
    action = loop.act(START + STEP)
    assert action.rung == Rung.CHUNK
    np.testing.assert_array_equal(action.actions, old.chunk.actions[2:])
    return refused.reason


@pytest.mark.parametrize('bad', [math.nan, math.inf, -math.inf])
def test_a_non_finite_output_leaves_the_old_chunk_and_says_why(bad):
    loop, old = planned()
    loop.engine.output = [0, bad]
    feed(loop, START + STEP)
    assert 'not finite' in next_plan_fails(loop, old)


def test_a_frame_that_cannot_be_decoded_leaves_the_old_chunk_and_says_why():
    def decode():
        raise FrameError('camera front: damaged JPEG')

    loop, old = planned()
    loop.observe_frame(Frame('front', START + STEP, START + STEP, decode))
    loop.observe_state(START + STEP, START + STEP, state_at(START))
    assert next_plan_fails(loop, old) == 'camera front: damaged JPEG'


def test_a_frame_that_is_too_small_leaves_the_old_chunk_and_says_why():
    loop, old = planned()
    loop.observe_frame(Frame.of('front', START + STEP, image_at('front', START, (4, 4))))
    loop.observe_state(START + STEP, START + STEP, state_at(START))
    assert 'smaller' in next_plan_fails(loop, old)


def test_a_stale_camera_leaves_the_old_chunk_and_says_why():
    loop, _ = planned()
    loop.observe_state(START + 501 * MS, START + 501 * MS, state_at(START))
    assert 'front is too old' in loop.plan(START + 501 * MS).reason


@pytest.mark.parametrize('values', [[0, math.nan, 0], [0, 0]])
def test_a_malformed_state_is_refused_and_the_last_good_one_kept(values):
    loop, _ = planned()
    with pytest.raises(SpecError):
        loop.observe_state(START + STEP, START + STEP, np.array(values, float))
    assert loop.act(START + 7 * STEP).actions.tolist() == [[2, 0]]  # y and x at START


def test_a_late_plan_of_an_older_observation_is_not_called_fresh():
    loop, first = planned()
    feed(loop, START + STEP)
    loop.plan(START + STEP)
    assert loop.act(START + STEP, first).rung == Rung.CHUNK


@pytest.mark.parametrize('count, rate', [(1, 10.0), (3, 10.0), (7, 10.0), (3, 20.0), (2, 50.0)])
def test_a_plan_is_wanted_once_n_action_steps_are_executed(count, rate):
    loop, _ = planned(n_action_steps=count, control_rate=rate, deadline=0.01)
    period = loop.settings.period_ns
    wanted = [loop.wants_plan(START + k * period) for k in range(1, 100)]
    assert wanted.index(True) + 1 == count * STEP // period


def test_the_bundle_says_how_many_actions_are_executed_unless_the_settings_do():
    loop, _ = planned()
    assert not loop.wants_plan(START + 2 * STEP) and loop.wants_plan(START + 3 * STEP)


def test_a_plan_is_wanted_at_the_start_after_a_failure_and_after_reset():
    loop = make_loop()
    assert loop.wants_plan(START)
    assert isinstance(loop.plan(START), NotReady) and loop.wants_plan(START)
    feed(loop, START)
    loop.plan(START)
    assert not loop.wants_plan(START + STEP)
    loop.reset()
    assert loop.wants_plan(START + STEP)


@pytest.mark.parametrize('late, left', [(0, 4), (1, 3), (3, 1), (4, 1), (5, 1)])
def test_what_latency_took_is_not_executed_once_more(late, left):
    loop = make_loop(n_action_steps=4, observation_timeout=1.0)
    feed(loop, START)
    now = START + late * STEP
    loop.plan(now)
    assert [loop.wants_plan(now + k * STEP) for k in range(1, 6)].index(True) + 1 == left


def test_a_plan_is_wanted_where_an_old_observation_left_fewer_actions_than_are_executed():
    loop = make_loop(n_action_steps=7)
    feed(loop, START)
    loop.plan(START + 3 * STEP)
    assert not loop.wants_plan(START + 6 * STEP)
    assert loop.wants_plan(START + 7 * STEP)
