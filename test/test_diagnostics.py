"""Ticks to /diagnostics: figures of the window, levels by threshold."""

import math
import sys
from dataclasses import replace

import pytest
from fakes import MS

pytest.importorskip('rclpy', reason='the message classes come with ROS 2')
from builtin_interfaces.msg import Time  # noqa: E402

from diffusion_policy_rt.ros import diagnostics  # noqa: E402
from diffusion_policy_rt.ros.diagnostics import (  # noqa: E402
    ERROR, OK, WARN, Monitor, Status, figures, to_message)
from diffusion_policy_rt.runtime.trace import Rung, Tick  # noqa: E402

NAN = math.nan
TICK = Tick(0, 0.02, 0.01, 0.002, 0.008, 0.03, 4, Rung.FRESH, 1, 0.01, 0.0, False)
LIMITS = {'miss_ratio': (0.01, 0.1), 'fallback_ratio': (0.05, 0.5), 'observation_age': (0.2, 0.5)}
SECOND = 1000 * MS


def monitor(ticks, at=0):
    made = Monitor(10 * SECOND, LIMITS, lookups_per_plan=2)
    for tick in ticks:
        made.tick(at, tick)
    return made


def loop_status(ticks, running=True, **keywords):
    return monitor(ticks).statuses(SECOND, running, {}, **keywords)[0]


def test_figures_count_rungs_misses_and_cache_hits():
    late = replace(TICK, missed=True, rung=Rung.CHUNK, plan_s=NAN, cache_hits=0)
    values = figures([TICK, TICK, late, replace(late, rung=Rung.HOLD)], 2)
    assert (values['ticks'], values['miss_ratio'], values['fallback_ratio']) == (4, 0.5, 0.25)
    assert (values['rung.fresh'], values['rung.chunk'], values['rung.hold']) == (2, 1, 1)
    assert values['cache_hit_ratio'] == 0.5
    assert values['plan_s.p99'] == pytest.approx(0.01)


def test_figures_of_no_ticks_are_absent_and_not_zero():
    values = figures([], 2)
    assert values['plan_s.p50'] is None and math.isnan(values['observation_age'])


def test_ticks_may_come_while_it_tells():
    made = monitor([TICK] * 5)

    def interrupt(frame, event, _):
        if frame.f_code.co_filename == diagnostics.__file__ and len(made._ticks) < 50:
            made._ticks.append((0, TICK))  # as another thread does, between any two steps
        return interrupt

    before = sys.gettrace()
    sys.settrace(interrupt)
    try:
        status = made.statuses(SECOND, True, {})[0]
    finally:
        sys.settrace(before)
    assert status.values['ticks'] > 5 and len(made._ticks) == 50


def test_ticks_older_than_the_window_are_left_out():
    made = monitor([TICK], at=0)
    made.tick(15 * SECOND, TICK)
    assert made.statuses(16 * SECOND, True, {})[0].values['ticks'] == 1


@pytest.mark.parametrize(('change', 'count', 'level', 'told'), [
    ({}, 0, OK, 'running'),
    ({'missed': True}, 1, OK, 'running'),
    ({'missed': True}, 2, WARN, 'miss_ratio is 0.02'),
    ({'missed': True}, 11, ERROR, 'miss_ratio is 0.11'),
    ({'rung': Rung.STOP}, 6, WARN, 'fallback_ratio is 0.06'),
    ({'rung': Rung.HOLD}, 60, ERROR, 'fallback_ratio is 0.6'),
    ({'observation_age_s': 0.3}, 1, WARN, 'observation_age is 0.3'),
    ({'observation_age_s': 0.6}, 1, ERROR, 'observation_age is 0.6'),
])
def test_levels_follow_the_thresholds(change, count, level, told):
    status = loop_status([replace(TICK, **change)] * count + [TICK] * (100 - count))
    assert (status.level, status.message) == (level, told)


def test_the_worst_figure_and_the_reason_are_told():
    ticks = [replace(TICK, rung=Rung.STOP, observation_age_s=0.3)]
    status = loop_status(ticks, reason='no robot state yet')
    assert (status.level, status.message) == (ERROR, 'fallback_ratio is 1; no robot state yet')


def test_running_without_ticks_is_an_error_and_not_running_is_none():
    assert loop_status([]).level == ERROR
    assert (loop_status([], running=False).level, loop_status([], False).message) == (
        OK, 'not running')


def test_a_camera_tells_its_rate_and_what_was_received():
    made = monitor([TICK])
    for k in range(11):
        made.received('camera front', k * SECOND // 10, '640x480 bgr8')
    status = made.statuses(SECOND, True, {'camera front': 0})[1]
    assert (status.task, status.level) == ('camera front', OK)
    assert status.values['rate_hz'] == pytest.approx(10)
    assert status.values['received_as'] == '640x480 bgr8'


def test_a_silent_input_is_an_error_while_running_and_dropped_messages_warn():
    made = monitor([TICK])
    made.received('camera front', 0, '')
    statuses = made.statuses(SECOND, True, {'camera front': 3, 'joint_states': 0})
    assert [(s.level, s.message) for s in statuses[1:]] == [(WARN, '3 dropped'),
                                                             (ERROR, 'no message')]
    assert made.statuses(SECOND, False, {'joint_states': 0})[1].level == OK


def test_the_message_follows_the_conventions():
    msg = to_message('policy', 'pusht', [Status('loop', WARN, 'late', {
        'a': 0.25, 'b': None, 'c': NAN, 'd': 3, 'e': 'x'})], Time(sec=1))
    status = msg.status[0]
    assert (status.level, status.name, status.hardware_id) == (b'\x01', 'policy: loop', 'pusht')
    assert {v.key: v.value for v in status.values} == {
        'a': '0.25', 'b': '', 'c': '', 'd': '3', 'e': 'x'}


# -- loss --------------------------------------------------------------------------------------

def stream(numbers, jitter=0):
    """Return the status of a camera whose images of these numbers arrived, 100 ms apart."""
    made = monitor([])
    for k, number in enumerate(numbers):
        stamp = SECOND + number * 100 * MS + (jitter * MS if k % 2 else 0)
        made.received('camera front', stamp, 'rgb8', stamp)
    return made.statuses(stamp, True, {'camera front': 0})[1]


def test_what_did_not_arrive_is_told_from_the_gaps_between_stamps_with_its_cure():
    status = stream([n for n in range(60) if n % 3])
    assert status.level == WARN and status.values['loss_ratio'] == pytest.approx(1 / 3, abs=0.01)
    assert '33% lost on the way' in status.message and 'config/fastdds.xml' in status.message


@pytest.mark.parametrize('jitter', [0, 20])
def test_a_stream_that_arrives_whole_loses_nothing_whatever_its_jitter(jitter):
    status = stream(range(60), jitter)
    assert (status.level, status.message, status.values['loss_ratio']) == (OK, 'received', 0)


def test_of_a_few_messages_nothing_is_told():
    assert math.isnan(stream([0, 9, 30]).values['loss_ratio'])
