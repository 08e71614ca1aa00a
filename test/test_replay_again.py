"""A recorded run is done again to the bit, also where plans were late or cut short."""

import dataclasses
import io
import json
from types import SimpleNamespace

import bags
import numpy as np
import pytest
from fakes import MS, FakeEngine, tiny_spec
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from diffusion_policy_rt.errors import DataError
from diffusion_policy_rt.replay.again import run_again
from diffusion_policy_rt.replay.charge import modelled
from diffusion_policy_rt.replay.conditions import Conditions, Watchers
from diffusion_policy_rt.replay.drive import Replay
from diffusion_policy_rt.replay.mapping import Inputs, map_topics
from diffusion_policy_rt.replay.recorded import Matcher
from diffusion_policy_rt.replay.session import Wish, recorded_run
from diffusion_policy_rt.replay.trail import Trail
from diffusion_policy_rt.ros.bag import TYPES, Bag
from diffusion_policy_rt.ros.events import (
    ACT, PLAN, RESET, Event, driver_event, parse_event)
from diffusion_policy_rt.runtime.limits import Limits
from diffusion_policy_rt.runtime.plan import Fate
from diffusion_policy_rt.runtime.settings import LoopSettings

STRING, DIGEST = 'std_msgs/msg/String', 'abc'
SPEC = tiny_spec(steps=(1, 2, 4, 8), horizon=16)


def run(path, chosen, latency='0', watchers=None, **how):
    """Return {due: actions [K, A]} of a replay, and its outcome."""
    watchers, found = watchers or Watchers(), {}
    told = watchers.tick

    def tick(due, now, actions, tick):
        found[due] = actions
        told(due, now, actions, tick)

    trail = Trail(io.StringIO(), Matcher(chosen.period_ns, []))
    conditions = Conditions(chosen, modelled(latency, 8), digest=DIGEST, **how)
    with Bag(path) as bag:
        sources = map_topics(Inputs.of(SPEC), bag.topics, {})
        outcome = Replay(SPEC, FakeEngine(SPEC), sources, conditions, trail,
                         dataclasses.replace(watchers, tick=tick)).run(bag)
    return found, outcome


def string(text):
    return bags.make(TYPES, STRING, data=text)


def record(folder, chosen, latency, seed, resets=(), more=(), heard=lambda message: message,
           **how):
    """Run a policy whose plans take their time; return its bag, {due: actions} and its events.

    `more` messages come in beside, and the recorder has `heard` each as this returns it.
    """
    inputs = [*bags.messages(30, without=(bags.ACTION,)), *more]
    orders = [('/pusht/episode', STRING, at, string('over')) for at in resets]
    path = bags.write(folder / 'inputs', sorted([*inputs, *orders], key=lambda m: m[2]))
    told, frames, asked = [], [], iter(sorted(resets))

    def note(now, event):
        if event.kind == RESET:  # what the node tells beside
            seen = dict.fromkeys(('front', 'state'), frames[-1].stamp_ns) if frames else {}
            event = dataclasses.replace(event, asked_ns=next(asked), newest=seen)
        told.append((now, event))

    found, _ = run(path, chosen, latency, Watchers(event=note, frame=frames.append), seed=seed,
                   **how)
    info = {'digest': DIGEST, 'seed': seed, 'settings': dataclasses.asdict(chosen)}
    messages = [*map(heard, inputs),
                ('/policy/policy_info', STRING, inputs[0][2], string(json.dumps(info)))]
    messages += [('/policy/events', STRING, now, string(event.to_json())) for now, event in told]
    for due, actions in found.items():
        message = bags.action(TYPES, due)
        if len(actions):
            message.points[0].positions = actions[0]
            messages.append((bags.ACTION, bags.TRAJECTORY, due, message))
    messages.sort(key=lambda m: m[2])
    return (bags.write(folder / 'bag', messages), found, [event for _, event in told])


@settings(max_examples=6, phases=(Phase.explicit, Phase.generate))
@given(st.integers(1, 30), st.integers(0, 60), st.integers(1, 20), st.integers(0, 9),
       st.sampled_from([(8, 8), (1, 8), (4, 8)]), st.integers(1, 5),
       st.lists(st.integers(3, 28), max_size=2, unique=True))
def test_whatever_plans_took_the_actions_have_the_same_bits(
        tmp_path_factory, call, encode, spread, seed, steps, executed, resets):
    chosen = LoopSettings(min_steps=steps[0], max_steps=steps[1], n_action_steps=executed,
                          deadline=0.06, blend_steps=2)
    p99 = (encode + 8 * call) * (1 + spread)
    latency = f'call={call}ms,encode={encode}ms,p99={p99}ms'
    at = [bags.START + k * bags.STEP + 31 * MS for k in resets]
    path, found, _ = record(tmp_path_factory.mktemp('run'), chosen, latency, seed, at)
    again, outcome = run(path, chosen, seed=seed, fated=True)
    assert any('ended when it ended' in note for note in outcome.notes)
    for due, actions in found.items():
        np.testing.assert_array_equal(again[due], actions, str((due - bags.START) / 1e8))


def test_the_fates_are_what_makes_them_equal(tmp_path):
    chosen = LoopSettings(min_steps=8, max_steps=8, deadline=0.06)
    path, found, told = record(tmp_path, chosen, 'call=9ms,p99=200ms', 0)
    fates = [event.fate for event in told if event.kind == PLAN]
    assert any(0 < fate.followed < 8 for fate in fates) and any(
        fate.used_ns > event.at_ns for event, fate in zip(
            (event for event in told if event.kind == PLAN), fates))
    assert {fate.steps for fate in fates} <= {0, 8}
    charged, _ = run(path, chosen)
    assert any(len(charged[due]) and not np.array_equal(charged[due], actions)
               for due, actions in found.items() if len(actions))


def test_an_engine_that_failed_when_it_was_recorded_makes_no_plan_again(tmp_path):
    chosen = LoopSettings(n_action_steps=1)
    path, found, told = record(tmp_path, chosen, '0', 0)
    events = [event for event in told if event.kind == PLAN]
    messages = bags.messages(30, without=(bags.ACTION,))
    messages.append(('/policy/policy_info', STRING, messages[0][2], string(json.dumps(
        {'digest': DIGEST, 'seed': 0, 'settings': dataclasses.asdict(chosen)}))))
    for event in told:
        failed = event is events[10]
        event = dataclasses.replace(event, fate=Fate(0, 0, event.at_ns)) if failed else event
        messages.append(('/policy/events', STRING, max(event.at_ns, messages[0][2]),
                         string(event.to_json())))
    messages.sort(key=lambda m: m[2])
    _, outcome = run(bags.write(tmp_path / 'failed', messages), chosen, fated=True)
    assert outcome.reasons['EngineError: no plan was made here when this was recorded'] == 1


def test_a_fate_survives_its_message():
    event = Event(PLAN, 5, 5, {'front': 3}, None, Fate(8, 3, 7))
    assert parse_event(event.to_json()) == event
    assert parse_event(Event(RESET, 5, 5).to_json()).fate is None


@pytest.fixture(scope='module')
def run_of_8(tmp_path_factory):
    chosen = LoopSettings(deadline=0.04)
    return record(tmp_path_factory.mktemp('told'), chosen, '3ms', 4)[0], chosen


@settings(max_examples=6, phases=(Phase.explicit, Phase.generate))
@given(st.integers(0, 2**31), st.sampled_from(['0', 'call=4ms,encode=8ms,p99=60ms']))
def test_limits_count_from_what_the_node_had_whenever_the_recorder_heard_it(
        tmp_path_factory, seed, latency):
    rng = np.random.default_rng(seed)
    stamps = [bags.START + k * bags.STEP + part * MS for k in range(30) for part in (25, 50, 75)]
    between = [(bags.STATE, bags.JOINTS, at + bags.LATE_NS, bags.joints(TYPES, at))
               for at in stamps]

    def heard(message):
        topic, kind, at, data = message
        return topic, kind, at + (topic == bags.STATE) * int(rng.integers(-20, 20)) * MS, data

    chosen = LoopSettings(deadline=0.08)
    limits = Limits(np.full(2, -9.0), np.full(2, 9.0), np.full(2, 0.5))
    path, found, told = record(tmp_path_factory.mktemp('run'), chosen, latency, 0, more=between,
                               heard=heard, limits=limits)
    assert sum(event.kind == ACT for event in told) > 20
    again, _ = run(path, chosen, fated=True, limits=limits)
    for due, actions in found.items():
        np.testing.assert_array_equal(again[due], actions, str((due - bags.START) / 1e8))


def test_only_actions_that_count_from_what_is_measured_tell_it(run_of_8):
    with Bag(run_of_8[0]) as bag:
        kinds = {parse_event(m.data.data).kind for m in bag.messages('/policy/events')}
    assert PLAN in kinds and ACT not in kinds
    event = driver_event(ACT, 5, {}, measured=np.array([0.1, np.nan]))
    assert event.measured == [0.1, None] and parse_event(event.to_json()) == event


def asked(path, digest=DIGEST, **wish):
    with Bag(path) as bag:
        sources = map_topics(Inputs.of(SPEC), bag.topics, {})
        return recorded_run(bag, sources, SimpleNamespace(digest=digest),
                            Wish(path, path, **{'seed': 4, **wish}))


def test_a_run_is_done_again_with_its_settings_unless_something_else_is_asked_for(run_of_8):
    path, chosen = run_of_8
    assert asked(path) == asked(path, latency='recorded', deadline=0.04) == chosen
    assert asked(path, latency='0') is asked(path, deadline=0.05) is asked(path, steps=1) is None
    assert asked(path, faults=('drop=0',)) is asked(path, more={'n_action_steps': 2.0}) is None
    assert asked(path, seed=0) is asked(path, digest='other') is None


@pytest.mark.parametrize('wish, why', [
    ({'deadline': 0.05}, 'deadline 0.04, not 0.05'), ({'seed': 0}, '--seed 4'),
    ({'faults': ('drop=0',)}, '--fault'), ({'digest': 'x'}, 'another policy')])
def test_what_was_asked_for_and_cannot_be_is_refused_by_its_reason(run_of_8, wish, why):
    with pytest.raises(DataError, match=f'--latency recorded: .*{why}'):
        asked(run_of_8[0], latency='recorded', **wish)


def test_a_bag_that_tells_nothing_of_a_run_is_none(tmp_path):
    path = bags.write(tmp_path / 'bag', bags.messages(3))
    with Bag(path) as bag, pytest.raises(DataError, match='holds no ~/events'):
        run_again(bag, map_topics(Inputs.of(SPEC), bag.topics, {}), DIGEST, 0)


