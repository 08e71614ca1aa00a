"""Positions of bounded acceleration: within all limits, braked in time, and never swinging."""

from dataclasses import replace

import numpy as np
import pytest
from fakes import MS, START, STATES, STEP, make_loop, planned, tiny_spec
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from diffusion_policy_rt.errors import SpecError
from diffusion_policy_rt.runtime.limits import Clips, Limits
from diffusion_policy_rt.runtime.motion import Motion
from diffusion_policy_rt.runtime.steering import MOST, SLOW, Steering, fastest
from diffusion_policy_rt.runtime.trace import Rung

LOW, HIGH, RATE = np.array([-1.0, -2]), np.array([1.0, 2]), np.array([0.5, 4])
ACCELERATION, TINY = np.array([0.3, 5]), 1e-9
chunks = arrays(float, st.tuples(st.integers(1, 12), st.just(2)), elements=st.floats(-9, 9))
inside = st.tuples(st.floats(-1, 1), st.floats(-2, 2)).map(np.array)
outside = arrays(float, 2, elements=st.floats(-5, 5))
steps = st.floats(0.01, 1)


def steering(step, rate=RATE):
    return Steering(LOW, HIGH, rate, ACCELERATION, step)


@given(st.floats(0, 5), st.floats(1e-3, 9), steps)
def test_the_fastest_velocity_uses_up_the_way_to_brake_in_and_no_more(way, change, step):
    velocity = fastest(np.array([way]), np.array([change]), step)[0]
    braked = np.maximum(velocity - change * np.arange(3000), 0).sum() * step
    assert braked == pytest.approx(way, rel=1e-6, abs=1e-9) or velocity > 2900 * change


@given(chunks, inside, steps)
def test_from_rest_place_velocity_and_acceleration_stay_within_limits(chunk, at, step):
    rows = steering(step).follow(chunk, at, at, np.zeros(2), step)
    velocity = np.diff(np.vstack((at, rows)), axis=0) / step
    change = np.diff(np.vstack((np.zeros(2), velocity)), axis=0)
    assert (rows >= LOW).all() and (rows <= HIGH).all()
    assert (np.abs(velocity) <= RATE + TINY / step).all()
    assert (np.abs(change) <= ACCELERATION * step + TINY / step).all()


@given(st.lists(chunks, min_size=1, max_size=40), inside, steps, st.floats(0.1, 1))
def test_a_robot_that_gets_a_new_chunk_in_every_tick_stays_within_limits_too(
        ticks, at, step, share):
    """Ticks may be more frequent than the policy's steps, and each chunk unlike the last."""
    moving, period, velocity = steering(step), share * step, np.zeros(2)
    for chunk in ticks:
        row = moving.follow(chunk, chunk[0], at, velocity, period)[0]
        told = (row - at) / step
        assert (np.abs(told) <= RATE + TINY / step).all()
        assert (np.abs(told - velocity) <= ACCELERATION * period + TINY / step).all()
        at, velocity = at + told * period, told
        assert (at >= LOW - TINY).all() and (at <= HIGH + TINY).all()


@given(chunks, outside, arrays(float, 2, elements=st.floats(-20, 20)), steps)
def test_from_beyond_its_limits_a_robot_comes_back_as_fast_as_it_may_whatever_it_did_before(
        chunk, at, velocity, step):
    rows = np.vstack((at, steering(step).follow(chunk, at, at, velocity, step)))
    assert (rows[1:] >= np.minimum(LOW, rows[:-1] + RATE * step) - TINY).all()
    assert (rows[1:] <= np.maximum(HIGH, rows[:-1] - RATE * step) + TINY).all()
    assert (np.abs(np.diff(rows, axis=0)) <= RATE * step + TINY).all()


@given(inside, inside, steps, st.sampled_from([1.0, 0.5, 0.2]))
def test_a_place_is_reached_without_passing_it_and_then_kept(at, target, step, share):
    moving, velocity, way = steering(step), np.zeros(2), [at]
    for _ in range(2000):
        row = moving.follow(np.tile(target, (3, 1)), target, at, velocity, share * step)[0]
        velocity = (row - at) / step
        at = at + velocity * step * share
        way.append(at)
        if np.abs(at - target).max() < 1e-6:
            break
    missing = (target - np.array(way)) * np.sign(target - way[0])
    assert (missing >= -TINY).all() and (np.diff(missing, axis=0) <= TINY).all()
    assert np.abs(at - target).max() < 1e-6


@given(st.floats(-0.4, 0.4), st.floats(-0.5, 0.5), st.floats(0.05, 0.3))
def test_what_moves_is_caught_up_with_and_not_passed(speed, behind, step):
    count = int(1 / step)
    free = Steering(-np.full(1, 99.0), np.full(1, 99.0), np.full(1, 9.0), np.full(1, 2.0), step)
    chunk = (behind + speed * step * np.arange(1, 2 + 9 * count))[:, None]
    rows = free.follow(chunk, np.array([behind]), np.zeros(1), np.array([speed]), step)
    error = (rows - chunk)[:, 0] * np.sign(-behind)
    followed = error[:6 * count]  # at its end the way to stop in is kept
    assert (followed >= -TINY).all()
    assert np.abs(followed[-1]) < 1e-6


@given(arrays(float, (12, 2), elements=st.floats(-1, 1)), inside, steps)
def test_what_keeps_the_limits_and_comes_to_rest_is_passed_on_as_it_is(shares, at, step):
    once = steering(step, RATE).follow(LOW + (shares + 1) * (HIGH - LOW), at, at, np.zeros(2),
                                       step)
    rest = steering(step).brake(once[-1], (once[-1] - once[-2]) / step, step)
    chunk = np.vstack((once, rest))
    again = steering(step).follow(chunk, at, at, np.zeros(2), step)
    np.testing.assert_allclose(again, chunk, atol=1e-6)


@given(inside, st.tuples(st.floats(-0.5, 0.5), st.floats(-4, 4)).map(np.array), steps)
def test_braking_is_within_the_limits_or_as_hard_as_the_place_demands(at, velocity, step):
    rows = steering(step).brake(at, velocity, step)
    speeds = np.abs(np.diff(np.vstack((at, rows)), axis=0)) / step
    assert (np.diff(np.vstack((np.abs(velocity), speeds)), axis=0) <= TINY / step).all()
    assert (rows >= LOW).all() and (rows <= HIGH).all()
    assert (speeds[-1] <= TINY / step).all() or len(rows) == MOST


@given(arrays(float, (12, 2), elements=st.floats(0, 1)), inside, steps)
def test_what_follows_a_chunk_can_stop_within_its_targets_at_any_time(jumps, at, step):
    moving, targets = steering(step), np.clip(
        at + np.cumsum(jumps * RATE * step, axis=0), LOW, HIGH)
    rows = moving.follow(targets, at, at, np.zeros(2), step)
    for k in range(len(rows)):
        before = at if k == 0 else rows[k - 1]
        stop = moving.brake(rows[k], (rows[k] - before) / step, step)[-1]
        assert (stop >= np.minimum(at, targets.min(0)) - 1e-6).all()
        assert (stop <= np.maximum(at, targets.max(0)) + 1e-6).all()


@given(st.floats(0.05, 0.1), st.floats(0, 5))
def test_a_robot_that_is_further_than_it_was_told_is_braked_harder_at_once_not_at_the_limit(
        step, ahead):
    moving = Steering(LOW[:1], HIGH[:1], np.full(1, 9.0), np.full(1, 0.3), step)
    change = moving.acceleration * step
    velocity = fastest(HIGH[:1] - LOW[:1], change, step)
    at = LOW[:1] + velocity * step + ahead * change * step
    rows = moving.brake(at, velocity, step)
    speeds = np.vstack((velocity, np.diff(np.vstack((at, rows)), axis=0) / step))
    assert (-np.diff(speeds, axis=0) <= 1.2 * change).all()
    assert (rows <= HIGH[:1]).all()


def test_what_is_not_measured_bounds_nothing_but_the_next_positions():
    rows = steering(0.1).follow(np.array([[1.0, 2], [-1, -2], [-1, -2]]), np.zeros(2),
                                np.full(2, np.nan), np.zeros(2), 0.1)
    np.testing.assert_allclose(rows[:2], [[1, 2], [0.95, 1.6]])
    np.testing.assert_allclose(rows[2], [0.9, 1.2])


# -- the plain formula, one action and one way after the other -----------------------------------

def plain_go(moving, wanted, target, at, velocity, allowed):
    last = np.where(np.isfinite(velocity), velocity, wanted)
    speed = np.clip(np.clip(wanted, last - allowed, last + allowed), -moving.rate, moving.rate)
    down, up = (fastest(room, moving.acceleration * moving.step, moving.step)
                for room in (at - moving.low, moving.high - at))
    speed = np.clip(speed, -down, up)
    there = np.clip(at + speed * moving.step, moving.low, moving.high)
    there = np.clip(there, at - moving.rate * moving.step, at + moving.rate * moving.step)
    known = np.isfinite(at)
    return (np.where(known, there, np.clip(target, moving.low, moving.high)),
            np.where(known, speed, np.nan))


def plain_follow(moving, targets, before, at, velocity, first_s):
    rows, change = np.empty(targets.shape), moving.acceleration * moving.step
    targets, before = (np.clip(it, moving.low, moving.high) for it in (targets, before))
    for k, target in enumerate(targets):
        missing = before - at
        back, ahead, catching = (fastest(way, change, moving.step) for way in (
            at - targets[k:].min(0), targets[k:].max(0) - at, np.abs(missing)))
        wanted = (target - before) / moving.step + np.sign(missing) * catching
        at, velocity = plain_go(moving, np.clip(wanted, -back, ahead), target, at, velocity,
                                moving.acceleration * (first_s if k == 0 else moving.step))
        before, rows[k] = target, at
    return rows


def plain_brake(moving, at, velocity, first_s):
    rows, allowed = [], moving.acceleration * first_s
    while not rows or (np.abs(velocity) > SLOW * allowed).any() and len(rows) < MOST:
        at, velocity = plain_go(moving, np.zeros(2), at, at, velocity, allowed)
        allowed = moving.acceleration * moving.step
        rows.append(at)
    return np.array(rows)


unknown = arrays(float, 2, elements=st.floats(-5, 5) | st.just(np.nan))


@given(chunks, outside, unknown, unknown, steps, st.sampled_from([1.0, 0.3]))
def test_what_is_computed_at_once_has_the_bits_of_the_plain_formula(
        chunk, before, at, velocity, step, share):
    moving = steering(step)
    for made, plain in ((moving.follow(chunk, before, at, velocity, share * step),
                         plain_follow(moving, chunk, before, at, velocity, share * step)),
                        (moving.brake(at, velocity, share * step),
                         plain_brake(moving, at, velocity, share * step))):
        assert made.tobytes() == plain.tobytes()


# -- from tick to tick -------------------------------------------------------------------------

def bounded(acceleration=(0.3, np.inf)):
    return Limits(np.full(2, -9.0), np.full(2, 9.0), np.array([2.0, 2.0]), np.array(acceleration))


@given(chunks, inside)
def test_actions_without_a_bound_of_acceleration_keep_every_bit(chunk, at):
    limits = Limits(LOW, HIGH, RATE, np.array([0.3, np.inf]))
    course, zero = Limits(LOW, HIGH, RATE).course(chunk, 0.1), np.zeros(2)
    rows = course.rest(0, len(chunk), at, 0.1)
    moved = Motion(limits, 0.1).follow(rows, chunk, chunk[0], at, 0, 0.1)
    np.testing.assert_array_equal(moved[:, 1], rows[:, 1])
    for none in (None, np.full(2, np.inf)):
        off = Motion(Limits(LOW, HIGH, RATE, none), 0.1)
        assert off.follow(rows, chunk, zero, at, 0, 0.1) is rows


def test_the_velocity_told_counts_while_it_lasts():
    motion, at, due = Motion(bounded(), 0.1), np.zeros(2), np.full((4, 2), 5.0)
    rows = motion.follow(due, due, due[0], at, 0, 0.1)
    np.testing.assert_allclose(rows[:2, 0], [0.003, 0.009])
    for now, change in ((100, 1), (200, 2), (300, 3), (401, 0)):
        going = motion.brake(at, now * MS, 0.1, told=False)
        assert len(going) == max(1, change), 'the steps to rest'


def test_a_robot_that_does_not_move_along_begins_at_rest():
    motion, due = Motion(bounded(), 0.1), np.full((4, 2), 5.0)
    for tick in range(9):
        motion.measure(tick * STEP, np.zeros(2), STEP)
        rows = motion.follow(due, due, due[0], np.zeros(2), tick * STEP, 0.1)
    np.testing.assert_allclose(rows[0, 0], 0.003)


@pytest.mark.parametrize('every', [MS, 7 * MS, 50 * MS, 300 * MS])
def test_the_measured_velocity_follows_a_stream_of_any_rate_and_a_clock_that_is_set(every):
    motion = Motion(bounded(), 0.1)
    for start in (START, START - 3600 * 10 * STEP):
        for k in range(1 + 1000 * MS // every):
            motion.measure(start + k * every, np.array([2e-9 * k * every, 0]), STEP)
            assert len(motion._places) <= 11
            assert k * every >= STEP or np.isnan(motion._moved).all()
        np.testing.assert_allclose(motion._moved, [2, 0])


def run(loop, seconds):
    """Tick a perfect robot; return the positions of action 0 (`y`) and the rungs."""
    at, way, rungs, now = np.array([0.0, 0.0, 0.5]), [], [], START
    while now < START + seconds * 1e9:
        loop.observe_state(now, now, at.copy())
        action = loop.act(now)
        rungs.append(action.rung)
        if len(action.actions):
            at[STATES.index('y')], at[STATES.index('x')] = action.actions[0]
        way.append(at[STATES.index('y')])
        now += STEP
    return np.array(way), rungs


def rising():
    """Return a loop with a chunk whose first action rises faster than it may."""
    loop, plan = planned(limits=bounded())
    chunk = plan.chunk.actions.copy()
    chunk[:, 0] = np.linspace(0, 4, len(chunk))
    object.__setattr__(plan.chunk, 'actions', chunk)
    return loop


def test_a_loop_brakes_at_the_end_of_a_chunk_and_holds_where_it_stopped():
    loop = rising()
    way, rungs = run(loop, 1.9)
    speed = np.diff(way) / 0.1
    assert np.abs(np.diff(speed)).max() <= 0.03 + TINY and speed.max() > 0.1
    assert Rung.HOLD in rungs and way[-1] == way[-2] > way[0]
    assert loop.hands.clips.figures()['limits.clip_ratio'] == 1


def test_the_last_hold_alone_tells_the_whole_way_to_rest():
    loop = rising()
    run(loop, 0.4)
    hold = loop.hold(START + 4 * STEP)
    speed = np.diff(hold.actions[:, 0])
    assert len(hold.actions) > 1 and np.abs(np.diff(speed)).max() <= 0.003 + TINY
    loop.reset()
    loop.observe_state(START, START, np.array([1.0, 2, 0]))
    assert len(loop.hold(START + 4 * STEP).actions) == 1


@pytest.mark.parametrize('acceleration', [None, (0.3, 0.3)])
@pytest.mark.parametrize('far', [9.5, -1e30])
def test_a_robot_measured_far_out_of_its_limits_is_sent_nothing_out_of_them(acceleration, far):
    limits = replace(bounded(), acceleration=acceleration and np.array(acceleration))
    loop, plan = planned(limits=limits)
    loop.observe_state(START, START, np.array([0.0, 9.1, 0.5]))
    assert np.abs(loop.act(START, plan).actions).max() <= 9, 'one step brings it back'
    loop.observe_state(START + MS, START + MS, np.array([0.0, far, 0.5]))
    for now in (START, START + 7 * STEP):  # a chunk, a hold
        assert loop.act(now, plan).rung == Rung.STOP
    assert loop.hands.clips.figures()['limits.outside'] == 2
    assert loop.hold(START).rung == Rung.STOP


def test_velocities_are_not_bounded_twice():
    with pytest.raises(SpecError, match='limits.*max_acceleration bounds positions'):
        make_loop(tiny_spec(), limits=bounded(), velocity=True)


def test_clipped_actions_are_counted_and_told_as_a_share():
    clips = Clips()
    assert clips.figures() == {'limits.clipped': 0, 'limits.outside': 0,
                               'limits.clip_ratio': None}
    for clipped in (False, True, False, False):
        clips.note(clipped)
    assert clips.figures() == {'limits.clipped': 1, 'limits.outside': 0,
                               'limits.clip_ratio': 0.25}
