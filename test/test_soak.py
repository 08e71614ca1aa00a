"""`dprt soak`: what it counts, what it demands, and a short run with everything bent."""

import math
from array import array
from dataclasses import replace

import numpy as np
import pytest
from ros_rig import rclpy  # noqa: F401
from sensor_msgs.msg import Image, JointState

from diffusion_policy_rt.cli.main import main
from diffusion_policy_rt.replay import fuzz
from diffusion_policy_rt.replay.soak import Soak
from diffusion_policy_rt.replay.soak_figures import histogram, lateness, unaccounted, verdict
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
    names = {fuzz.setting(rng)[0] for _ in range(500)}
    assert names == {p.name for p in TABLE if p.live} - {'enable_output'}


@pytest.mark.parametrize('fuzzing', [False, True])
def test_a_short_soak_finds_nothing_wild_lost_or_hung(bundle, fuzzing):
    row = Soak(str(bundle.folder), ticks=250, rate=25.0, deadline=0.04, width=57, height=45,
               hz=25.0, fuzz=fuzzing).run()
    assert verdict(row) == [], row
    assert row['ticks'] >= 250 and row['actions'] > 0 and (row['bent'] > 0) is fuzzing
    assert row['cpu_s_per_tick'] > 0


def test_a_camera_that_is_no_size_ends_with_one_line(capsys):
    assert main(['soak', '--camera', 'large']) == 1
    assert capsys.readouterr().err == (
        'dprt soak: --camera large: give columns and rows, such as 640x480\n')
