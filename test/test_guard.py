"""Rules per stream: each fault is counted and answered by its rule, and recovery is by rule."""

import numpy as np
import pytest
from fakes import ACTIONS, MS, START, STEP, feed, make_loop, state_at, tiny_spec

from diffusion_policy_rt.runtime.frame import Frame
from diffusion_policy_rt.runtime.guard import StreamRule
from diffusion_policy_rt.runtime.loop import Plan
from diffusion_policy_rt.runtime.observation import ROBOT
from diffusion_policy_rt.runtime.trace import Rung

TIMEOUT = 500 * MS
GREY = np.full((12, 16, 3), 90, np.uint8)


def driven(stream='front', **rule):
    """Return a loop with one plan made at START and a rule for one of its streams."""
    loop = make_loop(rules={stream: StreamRule(**rule)}, action_timeout=60.0)
    feed(loop, START)
    return loop, loop.plan(START)


def show(loop, stamp, rgb):
    """Give the loop an image and a state, and plan."""
    loop.observe_frame(Frame.of('front', stamp, rgb))
    loop.observe_state(stamp, stamp, state_at(stamp))
    return loop.plan(stamp)


def silent(loop, first, count, seen='state'):
    """Tick `count` periods in which only one stream is seen; return the rungs."""
    rungs = []
    for k in range(first, first + count):
        now = START + k * STEP
        if seen == 'state':
            loop.observe_state(now, now, state_at(now))
        rungs.append(loop.act(now).rung)
    return rungs


def test_dropping_follows_the_chunk_to_its_end_and_counts_each_stale_tick():
    loop, _ = driven(on_stale='drop')
    assert silent(loop, 1, 8) == [Rung.CHUNK] * 6 + [Rung.HOLD] * 2
    assert loop.guard.counts['front']['stale'] == 3 and not loop.guard.counts[ROBOT]['stale']


def test_holding_begins_just_after_the_timeout_and_halts_after_its_ticks():
    loop, _ = driven(on_stale='hold', hold_ticks=3)
    assert silent(loop, 1, 10) == [Rung.CHUNK] * 5 + [Rung.HOLD] * 3 + [Rung.STOP] * 2
    assert 'camera front' in loop.guard.halted and loop.guard.counts['front']['halted'] == 1
    assert not loop.wants_plan(START + 11 * STEP)


def test_halting_is_one_hold_and_then_silence_until_it_is_rearmed():
    loop, _ = driven(on_stale='halt')
    assert silent(loop, 1, 8)[4:] == [Rung.CHUNK, Rung.HOLD, Rung.STOP, Rung.STOP]
    feed(loop, START + 9 * STEP)
    assert loop.act(START + 9 * STEP).rung == Rung.STOP, 'a stream that is back moves nothing'
    loop.reset()
    feed(loop, START + 10 * STEP)
    assert loop.act(START + 10 * STEP).rung == Rung.STOP and not loop.wants_plan(START + 10 * STEP)
    loop.guard.rearm()
    plan = loop.plan(START + 10 * STEP)
    assert loop.act(START + 10 * STEP, plan).rung == Rung.FRESH


def test_after_a_hold_motion_begins_with_a_new_plan_and_not_with_the_old_chunk():
    loop, _ = driven(on_stale='hold', hold_ticks=9)
    assert silent(loop, 6, 1) == [Rung.HOLD]
    loop.observe_frame(Frame.of('front', START + 6 * STEP, GREY))
    assert loop.act(START + 6 * STEP).rung == Rung.HOLD and loop.wants_plan(START + 6 * STEP)
    plan = loop.plan(START + 6 * STEP)
    assert isinstance(plan, Plan) and loop.act(START + 6 * STEP, plan).rung == Rung.FRESH
    assert silent(loop, 7, 1) == [Rung.CHUNK]


def test_a_hold_for_the_robot_state_is_where_it_was_last_measured():
    loop, _ = driven(ROBOT, on_stale='halt')
    loop.observe_frame(Frame.of('front', START + 6 * STEP, GREY))
    action = loop.act(START + 6 * STEP)
    assert action.rung == Rung.HOLD and len(action.actions[0]) == len(ACTIONS)
    assert 'the robot state' in loop.guard.halted


def test_a_stream_that_never_came_halts_nobody():
    loop = make_loop(rules={'front': StreamRule('halt')})
    loop.observe_state(START, START, state_at(START))
    loop.plan(START)
    assert loop.act(START).rung == Rung.STOP and not loop.guard.halted
    assert loop.guard.counts['front']['missing'] == 1


# -- what an image shows -----------------------------------------------------------------------

def test_a_black_image_is_refused_and_the_image_before_it_stands_in():
    loop, _ = driven(min_brightness=2.0)
    refused = show(loop, START + STEP, np.zeros_like(GREY))
    assert (refused.source, refused.kind) == ('front', 'black') and 'uncover' in refused.reason
    assert loop.guard.counts['front']['black'] == 1
    assert isinstance(loop.plan(START + STEP), Plan)
    assert isinstance(show(loop, START + 2 * STEP, GREY), Plan)


def test_an_image_that_changes_its_size_midway_is_refused_until_reset():
    loop, _ = driven()
    wide = np.full((24, 32, 3), 90, np.uint8)
    refused = show(loop, START + STEP, wide)
    assert refused.kind == 'resized' and 'changed from 16x12 to 32x24' in refused.reason
    loop.reset()
    assert isinstance(show(loop, START + 2 * STEP, wide), Plan)


def test_pixels_that_stand_still_longer_than_the_timeout_are_frozen_until_they_change():
    loop, _ = driven(frozen_timeout=0.25)
    kinds = [getattr(show(loop, START + k * STEP, GREY), 'kind', '') for k in range(1, 6)]
    assert kinds == ['', '', '', 'frozen', 'frozen']
    assert loop.guard.counts['front']['frozen'] == 2
    assert isinstance(show(loop, START + 6 * STEP, GREY + 1), Plan)


def test_pixels_may_stand_still_where_no_timeout_is_set():
    loop, _ = driven()
    assert all(isinstance(show(loop, START + k * STEP, GREY), Plan) for k in range(1, 40))


@pytest.mark.parametrize('rule', ['hold', 'halt'])
def test_an_unfit_image_is_answered_like_a_stale_stream(rule):
    loop, _ = driven(on_stale=rule, min_brightness=2.0)
    show(loop, START + STEP, np.zeros_like(GREY))
    assert loop.act(START + STEP).rung == Rung.HOLD
    plan = show(loop, START + 2 * STEP, GREY) if rule == 'hold' else None
    assert loop.act(START + 2 * STEP, plan).rung == (Rung.FRESH if plan else Rung.STOP)


# -- clocks ------------------------------------------------------------------------------------

def test_a_camera_whose_clock_is_an_hour_behind_is_told_from_one_that_is_silent():
    loop, _ = driven()
    now = START + 9 * STEP
    loop.reset()
    loop.observe_frame(Frame('front', now - 3600 * 10 * STEP, now, lambda: GREY))
    loop.observe_state(now, now, state_at(now))
    assert 'synchronise the clocks' in loop.plan(now).reason
    assert loop.act(now).rung == Rung.STOP and loop.guard.counts['front']['stale'] == 1


def test_the_camera_that_is_behind_is_named_and_counted():
    loop = make_loop(tiny_spec(cameras=('front', 'wrist')))
    feed(loop, START)
    loop.observe_frame(Frame.of('front', START + 3 * STEP, GREY))
    refused = loop.plan(START + 3 * STEP)
    assert (refused.source, refused.kind) == ('wrist', 'skewed')
    assert 'wrist behind' in refused.reason
    assert loop.guard.counts['wrist']['skewed'] == 1
