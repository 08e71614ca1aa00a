"""Settings are checked as a set, and refused with the reason."""

import dataclasses
import math

import pytest
from fakes import tiny_spec

from diffusion_policy_rt.errors import SpecError
from diffusion_policy_rt.runtime.settings import LoopSettings

SPEC = tiny_spec()  # serves 1, 2 and 4 steps; horizon 8, n_obs 2


def check(**changes):
    dataclasses.replace(LoopSettings(), **changes).check(SPEC)


@pytest.mark.parametrize('changes, reason', [
    ({'deadline': 0.11}, 'deadline 0.11 s is longer than the control period 0.1 s'),
    ({'control_rate': 21.0}, 'longer than the control period'),
    ({'deadline': 0.1, 'observation_timeout': 0.1}, 'must be below observation_timeout 0.1 s'),
    ({'observation_timeout': 2.0}, 'must be below action_timeout 2 s'),
    ({'min_steps': 4, 'max_steps': 2}, 'min_steps 4 is above max_steps 2'),
    ({'min_steps': 3, 'max_steps': 3}, r'no step count in 3..3 is served.*\[1, 2, 4\]'),
    ({'n_action_steps': 8}, 'n_action_steps 8 is more than the 7'),
    ({'n_action_steps': -1}, 'n_action_steps'),
    ({'replan_ticks': -1}, 'replan_ticks'),
    ({'control_rate': 0.0}, 'control_rate'),
    ({'control_rate': -10.0}, 'control_rate'),
    ({'deadline': 0.0}, 'deadline'),
    ({'deadline': -0.1}, 'deadline'),
    ({'max_camera_skew': -0.1}, 'max_camera_skew'),
    *(({name: value}, name) for value in (math.nan, math.inf) for name in (
        'control_rate', 'deadline', 'observation_timeout', 'action_timeout', 'max_camera_skew')),
])
def test_a_set_that_contradicts_itself_is_refused_with_the_reason(changes, reason):
    with pytest.raises(SpecError, match=reason) as caught:
        check(**changes)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('changes', [
    {}, {'deadline': 0.1}, {'control_rate': 20.0}, {'control_rate': 30.0, 'deadline': 1 / 30},
    {'min_steps': 2, 'max_steps': 2}, {'n_action_steps': 7}, {'max_camera_skew': 0.0}])
def test_a_set_at_its_bounds_is_taken(changes):
    check(**changes)


def test_only_served_step_counts_within_the_limits_are_allowed():
    assert LoopSettings(min_steps=2, max_steps=9).allowed_steps(SPEC) == (2, 4)


def test_periods_and_deadlines_are_whole_nanoseconds():
    settings = LoopSettings(control_rate=30.0, deadline=0.02)
    assert (settings.period_ns, settings.deadline_ns) == (33_333_333, 20_000_000)
