"""Every tick has its rung by its rule: fresh, fewer steps, chunk, hold, stop."""

import numpy as np
import pytest
from fakes import ACTIONS, MS, START, STATES, STEP, feed, make_loop, planned, tiny_spec

from diffusion_policy_rt.runtime.limits import Limits
from diffusion_policy_rt.runtime.trace import Rung


def test_a_plan_of_this_tick_is_fresh_with_all_steps_asked_for():
    loop, plan = planned()
    action = loop.act(START, plan)
    assert (action.rung, plan.chunk.steps, len(action.actions)) == (Rung.FRESH, 4, 7)
    np.testing.assert_array_equal(action.actions, plan.chunk.actions[1:])


def test_without_a_plan_of_this_tick_the_rest_of_the_last_chunk_is_executed_by_due_time():
    loop, plan = planned()
    for k in range(1, 7):
        action = loop.act(START + k * STEP)
        assert action.rung == Rung.CHUNK
        np.testing.assert_array_equal(action.actions, plan.chunk.actions[1 + k:])


def test_after_the_last_action_of_the_chunk_the_robot_is_held_where_it_is():
    loop, _ = planned()
    loop.observe_state(START + 7 * STEP, START + 7 * STEP, np.array([1.0, 2, 0.5]))
    action = loop.act(START + 7 * STEP)
    measured = dict(zip(STATES, (1.0, 2, 0.5)))
    assert action.rung == Rung.HOLD
    assert action.actions.tolist() == [[measured[name] for name in ACTIONS]]


def test_holding_a_velocity_is_zero():
    loop, _ = planned(velocity=True)
    action = loop.act(START + 7 * STEP)
    assert action.rung == Rung.HOLD and action.actions.tolist() == [[0, 0]]


def test_velocities_change_within_the_limits_come_to_zero_and_then_nothing_is_sent():
    limits = Limits(np.full(2, -9.0), np.full(2, 9.0), np.array([2.0, 0.5]))
    loop, plan = planned(velocity=True, limits=limits, control_rate=50.0, deadline=0.01)
    sent, rungs, now = [np.zeros(2)], [], START
    while now < START + 3000 * MS:
        action = loop.act(now, plan)
        rungs.append(action.rung)
        if action.rung != Rung.STOP:
            sent.append(action.actions[0])
        now += 20 * MS
    changes = np.abs(np.diff(sent, axis=0))
    assert (changes <= limits.rate / 50 + 1e-12).all() and changes.max() > 0.03
    assert not sent[-1].any() and sent[-2].any()  # zero is sent once
    last = len(rungs) - rungs[::-1].index(Rung.HOLD)
    assert set(rungs[last:]) == {Rung.STOP} and len(rungs) - last > 20


def test_the_last_hold_of_a_velocity_is_the_way_to_zero_within_the_limits():
    limits = Limits(np.full(2, -9.0), np.full(2, 9.0), np.array([20.0, 5.0]))
    loop, plan = planned(velocity=True, limits=limits, control_rate=50.0, deadline=0.01)
    for k in range(10):
        moving = loop.act(START + 20 * k * MS, plan).actions[0]
    way = loop.hold(START + 200 * MS).actions
    assert len(way) > 2 and not way[-1].any() and way[:-1].any(1).all()
    assert (np.abs(np.diff(np.vstack((moving, way)), axis=0)) <= limits.rate / 50 + 1e-12).all()
    assert loop.rest_step_s == pytest.approx(0.02)
    assert not loop.hold(START + 200 * MS).actions.any(), 'it is at rest now'


@pytest.mark.parametrize('left', [True, False])
def test_a_velocity_is_braked_also_where_its_plan_has_become_too_old(left):
    loop, plan = planned(velocity=True, spec=tiny_spec(horizon=40))
    assert loop.act(START, plan).actions[0].any()
    late = START + 2000 * MS + 1
    assert loop.act(late).rung == Rung.HOLD and not loop.act(late).actions.any()
    assert loop.act(late).rung == Rung.STOP
    if left:
        loop.reset()
        assert loop.act(late).rung == Rung.STOP


def test_an_action_without_a_state_of_its_name_holds_its_last_planned_value():
    spec = tiny_spec()
    spec = tiny_spec(action=spec.action.__class__(**vars(spec.action) | {'names': ('y', 'lift')}))
    loop, plan = planned(spec=spec)
    loop.observe_state(START, START, np.array([1.0, 2, 0.5]))
    held = loop.act(START + 7 * STEP)
    assert held.rung == Rung.HOLD
    assert held.actions.tolist() == [[2, float(plan.chunk.actions[-1, 1])]]


def test_before_the_first_plan_and_after_the_action_timeout_nothing_is_published():
    loop = make_loop()
    assert loop.act(START).rung == Rung.STOP
    feed(loop, START)
    loop.plan(START)
    limit = START + 2000 * MS
    assert loop.act(limit).rung == Rung.HOLD
    stopped = loop.act(limit + 1)
    assert stopped.rung == Rung.STOP and stopped.actions.shape == (0, 2)


def test_a_plan_from_an_old_observation_stops_by_the_age_of_the_observation():
    loop = make_loop()
    feed(loop, START)
    loop.plan(START + 500 * MS)
    assert loop.act(START + 2000 * MS + 1).rung == Rung.STOP


def test_holding_where_nothing_is_known_publishes_nothing():
    assert make_loop().hold().rung == Rung.STOP


@pytest.mark.parametrize('budget_ms, steps, rung', [
    (None, 4, Rung.FRESH), (45, 4, Rung.FRESH), (44, 2, Rung.FEWER), (25, 2, Rung.FEWER),
    (24, 1, Rung.FEWER), (1, 1, Rung.FEWER)])
def test_the_steps_that_fit_what_is_left_after_encoding_are_taken(budget_ms, steps, rung):
    loop = make_loop()
    loop.engine.encode_ns, loop.engine.denoise_ns = 5 * MS, 10 * MS
    for n in (4, 2, 1):  # as a warm-up measures them
        loop.latencies.record(n, n * 10 * MS)
    feed(loop, START)
    plan = loop.plan(START, None if budget_ms is None else budget_ms * MS)
    assert (plan.chunk.steps, plan.rung) == (steps, rung)
    assert loop.act(START, plan).rung == rung


def test_the_costs_of_a_plan_are_measured_by_the_clock():
    loop = make_loop()
    loop.engine.encode_ns, loop.engine.denoise_ns = 3 * MS, 7 * MS
    feed(loop, START)
    plan = loop.plan(START)
    assert (plan.encode_ns, plan.denoise_ns, plan.plan_ns) == (3 * MS, 28 * MS, 31 * MS)
    assert loop.latencies.p99_ns(4) == 28 * MS and loop.latencies.p99_ns('encode') == 3 * MS
