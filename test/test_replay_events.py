"""A replay begins, ends and forgets where the recorded node did."""

import bags
import numpy as np
import pytest
from fakes import MS, START, STATES, STEP, state_at, tiny_spec
from hypothesis import given
from hypothesis import strategies as st
from test_replay import replay

from diffusion_policy_rt.errors import DataError
from diffusion_policy_rt.replay.events import (
    BEFORE_NS, EVENT, NEAR_NS, Reenactment, while_running)
from diffusion_policy_rt.replay.faults import Arrival
from diffusion_policy_rt.ros import events as node_events
from diffusion_policy_rt.ros.events import ALIGN, PLAN, RESET, STOP, Event, parse_event

TOPIC, KIND = '/policy/events', 'std_msgs/msg/String'


def told(event):
    """Return the event as a message of a bag."""
    return TOPIC, KIND, event.at_ns, bags.make(bags.TYPES, KIND, data=event.to_json())


def bag(path, found, *events):
    return bags.write(path, sorted([*found, *map(told, events)], key=lambda m: m[2]))


def start(at):
    return Event(node_events.START, at, at)


def test_an_event_survives_its_message():
    event = node_events.driver_event(RESET, 5, {'front': 2, '': 1}, 3, [0.5, 1.0])
    assert event.newest == {'front': 2, 'state': 1} and parse_event(event.to_json()) == event
    for text in ('', '[]', '{"kind": "reset"}', '3'):
        with pytest.raises(DataError):
            parse_event(text)


def order(arrivals, *events, deadline=0):
    mixed = [*arrivals, *(Arrival(event.at_ns, EVENT, event) for event in events)]
    return list(Reenactment(deadline).order(sorted(mixed, key=lambda a: a.at_ns)))


def sample(at, stamp, stream='front'):
    return Arrival(at * MS, stream, bags.joints(bags.TYPES, stamp * MS, 'x', [0.0]))


def stamp_of(arrival):
    return arrival.data.header.stamp.nanosec // MS


@given(st.lists(st.tuples(st.integers(1, 200), st.integers(0, 40)), min_size=1, max_size=30),
       st.integers(0, 250), st.integers(0, 200), st.integers(0, 50))
def test_each_message_is_on_the_side_of_a_plan_or_reset_on_which_the_node_had_it(
        sent, at, newest, deadline):
    arrivals = [sample(stamp + late, stamp) for stamp, late in sorted(sent, key=sum)]
    for kind, busy in ((RESET, 0), (PLAN, deadline * MS)):
        event = Event(kind, at * MS, at * MS, {'front': newest * MS})
        found = order(arrivals, event, deadline=busy)
        assert [a.at_ns for a in found] == sorted(a.at_ns for a in found)
        for a in (a for a in found if a.stream != EVENT):
            assert a.at_ns >= at * MS + busy if stamp_of(a) > newest else a.at_ns <= max(
                at * MS, stamp_of(a) * MS + 40 * MS)
        cut = [a.stream for a in found].index(EVENT) if kind == RESET else 0
        assert kind == PLAN or all(stamp_of(a) <= newest for a in found[:cut])
        assert {id(a.data) for a in found if a.stream != EVENT} == {id(a.data) for a in arrivals}


def test_what_a_plan_saw_comes_before_it_and_what_it_did_not_see_after_its_tick():
    arrivals = [sample(100, 95), sample(100, 95, 'wrist'), sample(103, 101)]
    early = Event(PLAN, 102 * MS, 102 * MS, {'front': 101 * MS})
    found = order(arrivals, early, deadline=50 * MS)
    assert [(a.stream, a.at_ns) for a in found] == [
        ('front', 100 * MS), ('front', 102 * MS - BEFORE_NS), ('wrist', 152 * MS)]


def test_of_what_came_before_a_start_the_node_took_in_the_last_that_waited():
    arrivals = [sample(at, at) for at in (10, 20, 30, 50)]
    event = Event(node_events.START, 40 * MS, 40 * MS, {'front': 10 * MS})
    found = order(arrivals, event)
    assert [(a.stream, a.at_ns // MS) for a in found] == [
        ('front', 10), (EVENT, 40), ('front', 40), ('front', 50)]
    seen = order(arrivals, Event(node_events.START, 40 * MS, 40 * MS, {'front': 30 * MS}))
    assert [a.stream for a in seen] == ['front', 'front', 'front', EVENT, 'front']


def test_an_event_says_nothing_of_messages_far_from_it_or_of_other_streams():
    arrivals = [sample(1, 7, 'wrist'), sample(2, 7, 'action'), sample(2 + NEAR_NS // MS, 7)]
    found = order(arrivals, Event(RESET, MS, MS, {'front': 7 * MS}))
    assert [a.at_ns for a in found if a.stream != EVENT] == [a.at_ns for a in arrivals]


def test_ticks_are_aligned_as_is_told_of_their_own_run():
    again = Reenactment(0)
    events = [start(0), Event(ALIGN, 30 * MS, 0), Event(RESET, 90 * MS, 0),
              Event(ALIGN, 120 * MS, 0), Event(STOP, 200 * MS, 0), start(300 * MS)]
    list(again.order([Arrival(e.at_ns, EVENT, e) for e in events]))
    assert [again.aligned(at * MS) for at in (10, 50, 100, 150, 250, 350)] == [
        30 * MS, 30 * MS, 120 * MS, 120 * MS, None, None]


def test_what_came_while_the_node_did_not_run_is_left_out():
    events = [start(10), Event(STOP, 20, 20), Event(STOP, 25, 25), start(30), start(40)]
    mixed = sorted([*(Arrival(e.at_ns, EVENT, e) for e in events),
                    *(Arrival(at, 'front', None) for at in (5, 15, 22, 35, 45))],
                   key=lambda a: a.at_ns)
    kept = list(while_running(mixed, running=False))
    assert [a.at_ns for a in kept] == [10, 15, 20, 30, 35, 40, 45]
    assert [a.data.kind for a in kept if a.stream == EVENT] == ['start', 'stop', 'start', 'rearm']
    assert next(while_running(mixed, running=True)).at_ns == 5


def test_ticks_begin_and_end_with_the_runs_of_the_recorded_node(tmp_path):
    stop, again = START + 10 * STEP + 30 * MS, START + 20 * STEP + 40 * MS
    path = bag(tmp_path / 'bag', bags.messages(30), start(START + 20 * MS),
               Event(STOP, stop, stop), start(again))
    lines, outcome = replay(path, '12ms', n_action_steps=1)
    due = [line['due_ns'] for line in lines]
    assert due[0] == START + 20 * MS + STEP and not outcome.restarts
    assert not any(stop < at < again + STEP for at in due) and again + STEP in due
    first = next(k for k, at in enumerate(due) if at > again)
    assert all(line['observed_ns'] > again - STEP for line in lines[first:] if line['action'])
    paid = [line['plan_s'] for line in lines[first:] if line['plan_s']]
    assert paid and paid == pytest.approx([0.012] * len(paid))
    whole, _ = replay(path, told=['events='])
    assert len(whole) >= 29


def test_a_reset_forgets_what_the_node_forgot_however_it_was_recorded(tmp_path):
    at = START + 15 * STEP + 2 * MS  # before the recorder had the frame of START + 15 * STEP
    before, after = (Event(RESET, at, at, {'front': START + k * STEP, 'state': START + k * STEP})
                     for k in (15, 14))
    seen = []
    for name, event in (('before', before), ('after', after)):
        lines, _ = replay(bag(tmp_path / name, bags.messages(30), event), n_action_steps=1)
        seen.append(next(t['observed_ns'] for t in lines if t['due_ns'] > at and t['action']))
    assert seen == [START + 16 * STEP, START + 15 * STEP]


def test_the_hold_of_a_reset_is_no_answer_to_a_tick(tmp_path):
    held = dict(zip(STATES, state_at(START)))
    values = [held[name] for name in tiny_spec().action.names]
    at = START + 15 * STEP - 20 * MS
    message = bags.action(bags.TYPES, START)
    message.points[0].positions = np.array(values)
    found = [m for m in bags.messages(30) if m[0] != bags.ACTION or m[2] < at]
    found.append((bags.ACTION, bags.TRAJECTORY, at + MS, message))
    recorded = []
    for name, event in (('told', Event(RESET, at, at, {}, values)), ('not', Event(RESET, at, at))):
        lines, _ = replay(bag(tmp_path / name, found, event))
        recorded.append([t['recorded'] for t in lines].count(values))
    assert recorded == [0, 1]
    again = Reenactment(0)
    list(again.order([Arrival(9, EVENT, Event(STOP, 9, 9, {}, [1.0, 5.0]))]))
    held = np.array([1.0, 5.0])
    assert again.is_hold(10, held, [0, 1]) and not again.is_hold(11, held + 1, [0, 1])
    assert again.is_hold(10, held[1:], [1]) and not again.is_hold(10, held[1:], [0])
    assert not again.is_hold(10 + NEAR_NS, held, [0, 1])


def test_a_recording_by_another_clock_keeps_its_order(tmp_path):
    at = START + 15 * STEP - 20 * MS
    event, other = Event(RESET, at, at), Event(RESET, 7, 5)
    paths = [bag(tmp_path / 'one', bags.messages(30), event),
             bags.write(tmp_path / 'two', sorted(
                 [*bags.messages(30), (*told(other)[:2], at, told(other)[3])],
                 key=lambda m: m[2]))]
    assert replay(paths[0])[1].sha256 == replay(paths[1])[1].sha256
    assert replay(paths[0])[1].sha256 != replay(paths[0], told=['events='])[1].sha256


def test_what_is_no_event_is_refused_by_name(tmp_path):
    text = bags.make(bags.TYPES, KIND, data='hello')
    path = bags.write(tmp_path / 'bag', [*bags.messages(3), (TOPIC, KIND, START + STEP * 9, text)])
    with pytest.raises(DataError, match='--map events='):
        replay(path)
