"""Faults injected into a running node over real topics: counters and published actions."""

import os
import signal

import numpy as np
import pytest
from ros_rig import FRESH, drive, is_hold

from diffusion_policy_rt.replay.faulty_node import HANGS, NOT_FINITE, RAISES, FaultyEngine
from diffusion_policy_rt.replay.live_faults import (
    an_hour_ago, black, frozen, in_an_hour, larger, without_a_joint)
from diffusion_policy_rt.runtime.trace import Rung

HALT = {'state.on_stale': 'halt', 'cameras.front.on_stale': 'halt',
        'cameras.wrist.on_stale': 'halt'}


def driving(robot, make_node, **values):
    """Return an active node whose robot already moves by fresh plans."""
    node = drive(robot, make_node, enable_output=True, **values)
    robot.until(lambda: sum(t.rung in FRESH for t in robot.ticks) >= 3, 'fresh plans')
    robot.more(robot.actions, 1)
    return node


def kept(ticks):
    """Return the ticks but those that a busy machine did not let run in time."""
    return [tick for tick in ticks if not tick.missed]


def silent(robot):
    """Whether the end of the ladder is reached."""
    return len(robot.ticks) > 3 and {tick.rung for tick in robot.ticks[-3:]} == {Rung.STOP}


def figures(robot, task):
    return {v.key: v.value for v in robot.status(task).values}


# -- streams -----------------------------------------------------------------------------------

FAULTS = [('front', black, 'camera front', 'black'), ('front', larger, 'camera front', 'resized'),
          ('front', frozen, 'camera front', 'frozen'),
          ('front', an_hour_ago, 'camera front', 'stale'),
          ('front', in_an_hour, 'camera front', 'dropped'),
          ('joints', without_a_joint, 'joint_states', 'dropped'),
          ('joints', an_hour_ago, 'joint_states', 'stale'),
          ('joints', in_an_hour, 'joint_states', 'dropped')]


@pytest.mark.parametrize(('stream', 'fault', 'source', 'kind'), FAULTS)
def test_a_fault_midway_goes_down_the_ladder_is_counted_and_recovers(
        robot, make_node, stream, fault, source, kind):
    driving(robot, make_node, observation_timeout=0.3, action_timeout=1.5,
            **{'cameras.front.frozen_timeout': 0.2})
    robot.faults[stream] = fault
    robot.until(lambda: silent(robot), 'the end of the ladder')
    last = max(i for i, tick in enumerate(robot.ticks) if tick.rung in FRESH)
    rungs = [tick.rung for tick in kept(robot.ticks[last:])]
    assert rungs == sorted(rungs) and Rung.CHUNK in rungs
    assert int(figures(robot, source)[kind]) > 0
    sent = len(robot.actions)
    robot.more(robot.ticks, 5)
    assert len(robot.actions) == sent
    robot.faults.clear()
    robot.until(lambda: robot.ticks[-1].rung in FRESH, 'a fresh plan')


@pytest.mark.parametrize(('stream', 'fault', 'source', 'kind'), [
    FAULTS[0], ('front', an_hour_ago, 'camera front', 'skewed'), FAULTS[5]])
def test_where_the_rule_is_halt_one_hold_is_the_last_action_until_start(
        robot, make_node, stream, fault, source, kind):
    driving(robot, make_node, observation_timeout=0.3, **HALT)
    robot.faults[stream] = fault
    robot.until(lambda: silent(robot), 'the halt')
    robot.faults.clear()
    robot.more(robot.ticks, 10)
    rungs = [tick.rung for tick in kept(robot.ticks)]
    assert rungs.count(Rung.HOLD) == 1 and set(rungs[rungs.index(Rung.HOLD) + 1:]) == {Rung.STOP}
    assert is_hold(robot.actions[-1], robot) and not is_hold(robot.actions[-2], robot)
    assert int(figures(robot, source)[kind]) > 0 and figures(robot, source)['halted'] == '1'
    assert 'call ~/start' in robot.status('loop').message
    assert robot.trigger('start').success
    robot.until(lambda: robot.ticks[-1].rung in FRESH, 'a fresh plan')


def test_where_the_rule_is_hold_its_ticks_are_held_and_a_new_plan_goes_on(robot, make_node):
    driving(robot, make_node, observation_timeout=0.3, action_timeout=60.0,
            **{'cameras.wrist.on_stale': 'hold', 'cameras.wrist.hold_ticks': 1000})
    robot.faults['silent'] = 'wrist'
    robot.until(lambda: robot.ticks[-1].rung == Rung.HOLD, 'the hold')
    robot.more(robot.ticks, 5)
    assert is_hold(robot.actions[-1], robot)
    robot.faults.clear()
    robot.until(lambda: robot.ticks[-1].rung in FRESH, 'a fresh plan')
    rungs = [tick.rung for tick in kept(robot.ticks)]
    held = rungs[rungs.index(Rung.HOLD):]
    assert set(held[:-1]) == {Rung.HOLD}, 'the old chunk is not resumed'


# -- engine ------------------------------------------------------------------------------------

def faulty(node, fault):
    """Let the engine of a node fail; return it."""
    engine = node._runner.loop.engine = FaultyEngine(node._runner.loop.engine)
    engine.set(fault)
    return engine


def plans_fail_and_ticks_go_on(robot, node, fault, told):
    """Run with a faulty engine to the end of the ladder, then with a sound one."""
    engine = faulty(node, fault)
    seen, sent = len(robot.ticks), len(robot.actions)
    robot.until(lambda: silent(robot), 'the end of the ladder')
    numbers = [tick.tick for tick in robot.ticks]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    down = [tick.rung for tick in kept(robot.ticks[seen:])]
    down = down[max((i + 1 for i, rung in enumerate(down) if rung in FRESH), default=0):]
    assert down == sorted(down) and {Rung.CHUNK, Rung.HOLD} <= set(down)
    assert len(robot.actions) - sent >= len(down) - down.count(Rung.STOP) - 1
    assert all(np.isfinite(p.positions).all() for msg in robot.actions for p in msg.points)
    assert told in robot.status('loop').message
    engine.set('')


@pytest.mark.parametrize(('fault', 'told'), [
    (RAISES, 'RuntimeError: out of memory'), (NOT_FINITE, 'not finite'), (HANGS, '')])
def test_an_engine_that_raises_gives_nan_or_hangs_costs_plans_and_no_tick(
        robot, make_node, fault, told):
    node = driving(robot, make_node, observation_timeout=0.3, action_timeout=1.5)
    plans_fail_and_ticks_go_on(robot, node, fault, told)
    robot.until(lambda: robot.ticks[-1].rung in FRESH, 'a fresh plan')


def test_what_a_hung_engine_answers_after_a_stop_and_start_moves_nothing(robot, make_node):
    node = driving(robot, make_node, observation_timeout=0.3, action_timeout=60.0)
    sound = node._runner.loop.engine
    hung = faulty(node, HANGS)
    robot.more(robot.ticks, 5)
    assert robot.trigger('stop').success
    robot.faults['silent'] = 'front'
    node._runner.loop.engine = sound
    assert robot.trigger('start').success
    robot.more(robot.ticks, 3)
    sent = len(robot.actions)
    hung.set('')
    robot.more(robot.ticks, 10)
    assert robot.ticks[-1].rung == Rung.STOP and len(robot.actions) == sent


def test_an_engines_process_that_is_killed_or_hangs_costs_plans_and_is_started_again(
        robot, make_node):
    node = driving(robot, make_node, engine_process=True)
    engine = node._runner.loop.engine
    engine.patience_s = 0.5
    for k, number in enumerate((signal.SIGKILL, signal.SIGSTOP), 1):
        before, seen, sent = engine.pid, len(robot.ticks), len(robot.actions)
        os.kill(before, number)
        robot.until(lambda old=before: engine.pid != old, 'another process')
        robot.until(lambda: robot.ticks[-1].rung in FRESH, 'a fresh plan')
        assert figures(robot, 'engine')['restarts'] == str(k)
        assert len(robot.ticks) > seen and len(robot.actions) > sent
    assert int(figures(robot, 'loop')['plans.raised']) >= 1
    numbers = [tick.tick for tick in robot.ticks]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    node.close()
    with pytest.raises(ProcessLookupError):
        os.kill(engine.pid, 0)
