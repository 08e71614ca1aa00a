"""`dprt soak --faults`: what it injects, how it counts ticks, and some faults in a real node."""

import types
from array import array
from dataclasses import replace

import numpy as np
import pytest
from ros_rig import rclpy  # noqa: F401
from sensor_msgs.msg import Image, JointState

from diffusion_policy_rt.cli.main import main
from diffusion_policy_rt.replay import fault_table, live_faults
from diffusion_policy_rt.replay.fault_robot import COUNTED
from diffusion_policy_rt.replay.fault_table import FaultTable, Trial, page, verdict
from diffusion_policy_rt.replay.faulty_node import ENGINE_FAULTS, FaultyEngine
from diffusion_policy_rt.replay.live_faults import CASES
from diffusion_policy_rt.runtime.guard import ON_STALE
from diffusion_policy_rt.runtime.plan import PLAN_FAULTS
from diffusion_policy_rt.runtime.trace import Rung, Tick

CASE = {(case.name, case.rule.name): case for case in CASES}
ROW = {'fault': 'black image', 'rule': 'drop', 'counted': {'black (camera front)': 4},
       'rungs': {'chunk': 3, 'stop': 2, 'fresh': 1}, 'lasted_ticks': 5, 'recovered_ticks': 1,
       'recovery': 'by itself', 'actions': 4, 'wild_actions': 0, 'unaccounted': 0}


def ticks(rungs):
    """Return ticks of these rungs: f(resh), (fe)w(er), c(ached), (c)h(unk), (h)o(ld), s(top)."""
    names = dict(zip('fwchos', Rung))
    return [Tick(i, 0.0, 0.0, 0.0, 0.0, 0.0, 1, names[letter], 0, 0.0, 0.0, False)
            for i, letter in enumerate(rungs)]


def trial(case, rungs):
    """Return the trial of a case whose robot has heard these ticks."""
    return Trial(types.SimpleNamespace(ticks=ticks(rungs)), None, CASE[case], 40)


@pytest.mark.parametrize(('rungs', 'since', 'after'), [
    ('fff', 0, 1), ('ffhhsf', 2, 4), ('ffhhsw', 2, 4), ('ffhhsccf', 2, 6), ('ffhhs', 2, 0)])
def test_recovered_is_the_first_plan_of_new_frames_counted_from_the_end_of_the_fault(
        rungs, since, after):
    assert trial(('black image', 'drop'), rungs)._recovered(since) == after


def test_a_signal_counts_from_its_instant_and_past_the_plans_that_were_made_before_it():
    made = trial(('engine\'s process is killed', 'engine_process'), 'fffchhff')
    assert made._recovered(1) == 6


@pytest.mark.parametrize(('rungs', 'settled', 'ended'), [
    ('fffff', True, False), ('cfccc', True, False), ('ccccc', False, False),
    ('fffh', False, False), ('fffhf', False, False), ('hsss', False, True),
    ('f' * 40, True, True)])
def test_a_fault_begins_while_all_is_well_and_ends_at_the_end_of_the_ladder(
        rungs, settled, ended):
    made = trial(('black image', 'drop'), rungs)
    assert (made._settled, made._ended(0)) == (settled, ended)


def test_rungs_are_told_in_their_order_and_what_the_machine_delayed_apart():
    late = replace(ticks('s')[0], missed=True)
    counts = fault_table._rungs([*ticks('hho'), late, *ticks('f')])
    assert list(counts.items()) == [('chunk', 2), ('hold', 1), ('fresh', 1), ('missed', 1)]


@pytest.mark.parametrize(('change', 'told'), [
    ({}, ''), ({'wild_actions': 1}, 'not finite or out of bounds'),
    ({'unaccounted': 2}, 'ticks were not told'), ({'counted': {}}, 'nothing was counted'),
    ({'recovery': 'before ~/start'}, 'moved again before ~/start')])
def test_the_verdict_names_what_may_not_be(change, told):
    broken = verdict([ROW, {**ROW, **change}])
    assert bool(broken) is bool(told) and told in '; '.join(broken)


def test_the_page_has_a_row_per_fault():
    lines = page([ROW, {**ROW, 'rule': 'halt'}]).splitlines()
    assert lines[2] == ('| black image | `drop` | black (camera front) 4 | chunk 3, stop 2, '
                        'fresh 1 | 4 | 1 |')
    assert lines[3].endswith('| 1 after `~/start` |') and len(lines) == 4


def test_each_case_is_one_fault_and_its_rule_is_one_that_the_node_knows():
    assert len(CASE) == len(CASES)
    for case in CASES:
        assert sum(map(bool, (case.image, case.state, case.silent, case.engine,
                              case.number))) == 1
        rules = {v for k, v in case.rule.parameters.items() if k.endswith('on_stale')}
        assert rules <= set(ON_STALE) and (not case.engine or case.engine in ENGINE_FAULTS)
    assert all(COUNTED.fullmatch(f'plans.{name}') for name in PLAN_FAULTS)


def test_bent_images_stay_whole_and_states_keep_their_length():
    for bend in (live_faults.black, live_faults.frozen, live_faults.larger):
        image = Image(height=3, width=2, step=6, encoding='rgb8', data=array('B', range(18)))
        bend(image)
        assert len(image.data) == image.height * image.step and image.step == 3 * image.width
        assert len(set(image.data)) == 1
    state = JointState(name=['x', 'y'], position=[1.0, 2.0])
    live_faults.without_a_joint(state)
    assert state.name[0] == 'x' and 'y' not in state.name and len(state.name) == 2


def test_an_engine_fails_as_it_is_told_and_is_sound_afterwards():
    sound = types.SimpleNamespace(name='e', dtypes={}, executed={}, encode=len,
                                  denoise=lambda *args: np.ones(2))
    engine = FaultyEngine(sound)
    for fault in ('raises', 'not_finite', 'hangs', ''):
        engine.set(fault)
        assert engine._sound.is_set() is (fault != 'hangs')
    engine.set('raises')
    with pytest.raises(RuntimeError):
        engine.denoise(None, 1.0, None)
    engine.set('not_finite')
    assert np.isnan(engine.denoise(None, 1.0, None)).all()
    engine.set('')
    assert engine.denoise(None, 1.0, None).tolist() == [1, 1]


def test_faults_of_a_stream_and_of_the_engine_are_counted_answered_and_recovered_from(bundle):
    cases = [CASE['joint missing from the state', 'halt'], CASE['engine returns NaN', 'drop']]
    rows = FaultTable(str(bundle.folder), 'auto', 20.0, 0.05, 57, 45, 20.0, 0, {
        'observation_timeout': '0.3', 'action_timeout': '1.0'}).run(cases)
    assert verdict(rows) == [], rows
    halted, failed = rows
    assert halted['recovery'] == '~/start' and halted['rungs'].get('hold', 0) <= 1  # or missed
    assert halted['counted']['halted (joint_states)'] == 1
    assert failed['counted']['plans.not_finite'] > 0 and failed['rungs']['stop'] >= 3
    assert all(row['recovered_ticks'] > 0 and row['actions'] > 0 for row in rows)


def test_what_is_no_parameter_ends_with_one_line(capsys):
    assert main(['soak', '--faults', '--set', 'deadline']) == 1
    assert capsys.readouterr().err == (
        'dprt soak: --set deadline: give NAME=VALUE, such as replan_ticks=1\n')
