"""`dprt soak`: what it counts, what it demands, and a short run with everything bent."""

import json
import math
import os
import select
import subprocess
import sys
from array import array
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ros_rig import rclpy  # noqa: F401
from sensor_msgs.msg import Image, JointState

from diffusion_policy_rt.cli.main import main
from diffusion_policy_rt.replay import fuzz
from diffusion_policy_rt.errors import DprtError
from diffusion_policy_rt.replay.soak import Load, Soak
from diffusion_policy_rt.replay.soak_figures import (
    growth, histogram, lateness, misses, spread, unaccounted, verdict)
from diffusion_policy_rt.replay.soak_robot import SoakRobot
from diffusion_policy_rt.replay.soak_table import page, rows, run_table
from diffusion_policy_rt.replay.soak_table import verdict as table_verdict
from diffusion_policy_rt.ros.bag import Bag
from diffusion_policy_rt.ros.param_table import TABLE
from diffusion_policy_rt.runtime.trace import Rung, Tick

TICK = Tick(0, math.nan, 0.01, 0.002, 0.008, 0.004, 4, Rung.CHUNK, 1, 0.01, 0.0, False)
WELL = {'ended': '', 'recovered': True, 'wild_actions': 0, 'first_wild': [], 'unaccounted': 0,
        'growth_bytes': 1 << 20}


def test_lateness_counts_from_the_scheduled_instant_and_only_for_actions():
    ticks = [TICK, replace(TICK, slack_s=-0.001), replace(TICK, rung=Rung.STOP)]
    assert lateness(ticks, 0.01) == pytest.approx([0.006, 0.011])


def test_a_histogram_counts_each_value_once_up_to_what_is_more():
    counts = histogram([0.00005, 0.0003, 0.0301, 4.0, -0.1, math.nan])
    assert sum(counts.values()) == 5 and counts['0.1 ms'] == 2 and counts['more'] == 1


def test_missing_ticks_are_unaccounted_and_a_start_from_zero_is_none():
    numbers = [0, 1, 2, 5, 6, 0, 1, 3]
    assert unaccounted([replace(TICK, tick=n) for n in numbers]) == 3


def test_missed_ticks_are_told_one_by_one_but_not_without_end():
    late = replace(TICK, slack_s=-0.3, missed=True)
    told = misses([TICK, late, *[replace(late, tick=n, rung=Rung.STOP) for n in range(30)]], 0.01)
    assert told[0] == {'tick': 0, 'lateness_s': pytest.approx(0.31), 'rung': 'chunk',
                       'plan_s': TICK.plan_s}
    assert [one['tick'] for one in told[1:]] == list(range(19))


@pytest.mark.parametrize(('change', 'told'), [
    ({}, ''), ({'ended': 'no tick for 10 s'}, 'no tick'), ({'wild_actions': 2}, '2 actions were'),
    ({'unaccounted': 1}, '1 ticks were not told'), ({'recovered': False}, 'of a sound robot'),
    ({'growth_bytes': 40 << 20}, 'grew by 40 MiB')])
def test_the_verdict_names_what_may_not_be(change, told):
    broken = verdict({**WELL, **change})
    assert bool(broken) is bool(told) and told in '; '.join(broken)


@pytest.mark.parametrize('make', [
    lambda: Image(height=2, width=2, step=6, encoding='rgb8', data=array('B', bytes(12))),
    lambda: JointState(name=['x', 'y'], position=[1.0, 2.0])])
def test_every_message_can_be_bent_in_every_way(make):
    rng = np.random.default_rng(0)
    for _ in range(300):
        fuzz.bend(make(), rng)


def test_settings_are_drawn_of_live_parameters_and_never_open_the_way_to_a_robot():
    rng = np.random.default_rng(0)
    names = {fuzz.setting(TABLE, rng)[0] for _ in range(500)}
    assert names == {p.name for p in TABLE if p.live} - {'enable_output'}


@pytest.mark.parametrize('fuzzing', [False, True])
def test_a_short_soak_finds_nothing_wild_lost_or_hung(bundle, fuzzing):
    row = Soak(str(bundle.folder), ticks=250, rate=25.0, deadline=0.04, width=57, height=45,
               hz=25.0, fuzz=fuzzing).run()
    assert verdict(row) == [], row
    assert row['ticks'] >= 250 and row['actions'] > 0 and (row['bent'] > 0) is fuzzing
    assert row['cpu_s_per_tick'] > 0


def test_what_a_load_asks_for_runs_beside_two_cameras_and_all_of_it_is_told(tmp_path):
    load = Load(1, 8 << 20, tmp_path / 'bag')
    row = Soak('arm', ticks=60, rate=10.0, deadline=0.1, hz=20.0, load=load).run()
    assert [told for told in verdict(row) if 'memory' not in told] == [], row
    assert set(row['frames']) == {'front', 'wrist'}
    assert all(0 < each['received'] <= each['sent'] + 2 for each in row['frames'].values())
    assert row['lateness_ratio'] is None or row['plain_timer_s']['p99'] > 0
    with Bag(tmp_path / 'bag') as bag:
        recorded = {topic.name: topic.messages for topic in bag.topics}
    assert recorded['/camera/wrist/image_raw'] > 0 and recorded['/policy/timing'] > 0


def test_ctrl_c_ends_a_soak_with_what_was_measured_so_far(bundle, tmp_path, capsys, monkeypatch):
    class Interrupted(SoakRobot):
        def _tick(self, msg):
            super()._tick(msg)
            if len(self.ticks) == 20:
                raise KeyboardInterrupt

    monkeypatch.setattr('diffusion_policy_rt.replay.soak.SoakRobot', Interrupted)
    assert main(['soak', '--policy', str(bundle.folder), '--camera', '57x45', '--rate', '20',
                 '--deadline', '0.05', '--json', str(tmp_path / 'r.json')]) == 130
    row = json.loads((tmp_path / 'r.json').read_text())
    assert row['interrupted'] and row['ticks'] == 20 and row['recovered'] is None
    assert 'lateness_chunk_s' in row and 'ticks: 20' in capsys.readouterr().out


@pytest.mark.parametrize(('words', 'told'), [
    (['--memory', str(1 << 40)], 'ask for less'), (['--record', '.'], 'it exists')])
def test_a_load_that_cannot_be_run_ends_with_one_line(words, told, capsys):
    assert main(['soak', *words]) == 1
    assert told in capsys.readouterr().err


CHILDREN = """
import pathlib, sys
from diffusion_policy_rt.replay.soak_load import Load, plain_timer
with Load(1, 1 << 20, pathlib.Path(sys.argv[1])).running(['front']), plain_timer(50.0):
    print('running', flush=True)
    sys.stdin.read()
"""


def test_what_a_soak_runs_ends_with_it_even_where_it_is_killed(tmp_path):
    with subprocess.Popen([sys.executable, '-c', CHILDREN, str(tmp_path / 'bag')], text=True,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as soak:
        assert soak.stdout.readline() == 'running\n'
        tasks = Path(f'/proc/{soak.pid}/task').glob('*/children')
        children = [os.pidfd_open(int(pid)) for task in tasks for pid in task.read_text().split()]
        soak.kill()
    assert len(children) == 4
    for child in children:
        assert select.select([child], [], [], 60)[0], 'it is readable once its process has ended'
        os.close(child)


def test_growth_is_between_the_settled_parts_whatever_comes_and_goes():
    assert growth([]) == {'resident_bytes': 0, 'growth_bytes': 0}
    steady = [50, 90] + [100, 140, 100] * 20
    assert growth(steady)['growth_bytes'] == 0
    assert growth([*steady[:30], *(size + 7 for size in steady[30:])])['growth_bytes'] == 7


def test_the_table_soaks_under_each_load_and_tells_what_was_refused(monkeypatch, tmp_path):
    asked = []

    def run(soak):
        asked.append(soak)
        if len(asked) == 2:
            raise DprtError('too slow')
        return {**WELL, 'ticks': soak.ticks, 'missed': 0, 'interrupted': len(asked) == 4,
                'lateness_chunk_s': spread([0.001]), 'lateness_ratio': 2.0,
                'stamp_to_publish_s': spread([]), 'frames': {'front': {'sent': 5, 'received': 4}}}

    monkeypatch.setattr(Soak, 'run', run)
    made = run_table(Soak(parameters={'seed': 3}), 100)
    assert len(made) == 4, 'an interrupted row is the last'
    head, rule, *lines = page(made).splitlines()
    assert len({line.count('|') for line in (head, rule, *lines) if 'too slow' not in line}) == 1
    assert '| 1.00 | 1.00 | 1.00 | 1.00 | 2.0 | - | - | - | - | 4 of 5 |' in lines[0]
    assert table_verdict(made) == [f'{made[1]["load"]}: too slow']
    every = dict(rows(Soak(parameters={'seed': 3}), tmp_path))
    assert all(soak.parameters['seed'] == 3 for soak in every.values())
    assert any(soak.load.record and soak.load.memory and soak.load.busy for soak in every.values())


def test_a_camera_that_is_no_size_ends_with_one_line(capsys):
    assert main(['soak', '--camera', 'large']) == 1
    assert capsys.readouterr().err == (
        'dprt soak: --camera large: give columns and rows, such as 640x480\n')
