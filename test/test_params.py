"""The parameter table: declared, checked as a set, frozen, documented; and a dump comes back."""

from pathlib import Path

import numpy as np
import pytest
from fakes import START, STEP, feed, make_loop, tiny_spec
from hypothesis import given, settings
from hypothesis import strategies as st
from ros_rig import overrides, rclpy

from diffusion_policy_rt.errors import SpecError
from diffusion_policy_rt.replay import fuzz
from diffusion_policy_rt.ros import params
from diffusion_policy_rt.ros.param import Param
from diffusion_policy_rt.ros.param_page import render
from diffusion_policy_rt.ros.param_table import TABLE
from diffusion_policy_rt.ros.param_values import caches_of
from diffusion_policy_rt.ros.policy_params import policy_params
from diffusion_policy_rt.runtime.settings import LoopSettings

yaml = pytest.importorskip('yaml', reason='parameter files are YAML')
SPEC = tiny_spec(cameras=('front', 'wrist'))
EVERY = [*TABLE, *policy_params(SPEC)]
DEFAULTS = {param.name: param.default for param in EVERY}
DOCS = Path(__file__).parent.parent / 'docs' / 'parameters.md'
LIVE = {'control_rate', 'deadline', 'min_steps', 'max_steps', 'observation_timeout',
        'action_timeout', 'max_camera_skew', 'n_action_steps', 'replan_ticks', 'seam_limit',
        'blend_steps',
        'cache.capacity', 'cache.condition', 'cache.blocks', 'cache.warm_start',
        'cache.warm_noise', 'enable_output',
        *(f'cache.{camera}.{field}' for camera in ('front', 'wrist')
          for field in ('tiles', 'threshold', 'max_age'))}


@pytest.fixture
def make_node(context):
    made = []

    def make(cli_args=(), **values):
        node = rclpy.create_node('policy', context=context, cli_args=list(cli_args),
                                 parameter_overrides=overrides(values))
        made.append(node)
        return node

    yield make
    for node in made:
        node.destroy_node()


def values_of(node):
    return {name: node.get_parameter(name).value for name in DEFAULTS}


def test_declaring_gives_every_parameter_its_default_and_its_description(make_node):
    node = make_node()
    params.declare(node, EVERY)
    assert values_of(node) == DEFAULTS
    for param in EVERY:
        shown = node.describe_parameter(param.name)
        assert shown.description == param.description and param.description.endswith('.')
        assert shown.read_only is (param.name not in LIVE)


def test_declaring_twice_keeps_what_was_set(make_node):
    node = make_node()
    params.declare(node, EVERY)
    node.set_parameters(overrides({'deadline': 0.02}))
    params.declare(node, EVERY)
    assert node.get_parameter('deadline').value == 0.02


@pytest.mark.parametrize(('name', 'value', 'told'), [
    ('deadline', 99.0, 'parameter deadline must lie in 0.0005 .. 10'),
    ('min_steps', 0, 'parameter min_steps must lie in 1 .. 1000'),
    ('control_rate', 10, r'parameter control_rate must be a double \(1.0, not 1\)'),
    ('policy', 3, 'parameter policy must be a string'),
    ('action_type', 'servo', "parameter action_type is 'servo'; use one of joint_trajectory"),
    ('cameras.front.transport', 'h264', 'use one of raw, compressed'),
])
def test_a_value_that_does_not_fit_is_named_with_what_does(make_node, name, value, told):
    with pytest.raises(SpecError, match=told):
        params.declare(make_node(**{name: value}), EVERY)


def test_defaults_freeze_to_the_loops_defaults_and_the_policys_bounds():
    frozen = params.freeze(DEFAULTS, SPEC)
    assert frozen.settings == LoopSettings()
    assert frozen.enable_output is False
    assert frozen.action_fields == SPEC.action.names
    np.testing.assert_array_equal(frozen.limits.low, SPEC.action.low)
    np.testing.assert_array_equal(frozen.limits.rate, [np.inf] * 2)
    assert frozen.cameras['wrist'].full_topic == 'camera/wrist/image_raw'


def test_compressed_images_are_beside_the_raw_ones():
    frozen = params.freeze({**DEFAULTS, 'cameras.wrist.transport': 'compressed'}, SPEC)
    assert frozen.cameras['wrist'].full_topic == 'camera/wrist/image_raw/compressed'
    assert frozen.cameras['front'].full_topic == 'camera/front/image_raw'


@pytest.mark.parametrize(('changes', 'told'), [
    ({'deadline': 0.2}, 'longer than the control period 0.1 s'),
    ({'min_steps': 3, 'max_steps': 3}, r'this policy serves \[1, 2, 4\]'),
    ({'limits.x.max_velocity': 0.0}, 'limits.x.max_velocity must be above zero; .inf sets no'),
    ({'limits.x.max_acceleration': 0.0}, 'limits.x.max_acceleration must be above zero'),
    ({'limits.y.min_position': 9.0}, 'limits.y.min_position must lie below limits.y.max_position'),
])
def test_what_contradicts_itself_or_the_policy_does_not_freeze(changes, told):
    with pytest.raises(SpecError, match=told):
        params.freeze({**DEFAULTS, **changes}, SPEC)


@pytest.mark.parametrize(('changes', 'told'), [
    ({'control_rate': 50.0}, 'longer than the control period'),
    ({'control_rate': 50.0, 'deadline': 0.02}, ''),
    ({'observation_timeout': 3.0}, 'must be below action_timeout'),
    ({'observation_timeout': 3.0, 'action_timeout': 4.0}, ''),
    ({'deadline': 0.05, 'observation_timeout': 0.05}, 'must be below observation_timeout'),
    ({'min_steps': 9}, 'above max_steps'),
    ({'enable_output': True}, ''),
    ({'cache.warm_start': 0.0001}, 'cache.warm_start 0.0001 is no noise level; use 0'),
    ({'cache.warm_noise': float('nan')}, 'cache.warm_noise nan is no share'),
    ({'cache.warm_start': float('nan')}, 'cache.warm_start nan is no noise level'),
    ({'cache.wrist.threshold': float('nan')}, 'cache.wrist.threshold nan must lie in 0..255'),
    ({'cache.front.max_age': float('inf')}, 'cache.front.max_age inf must be finite'),
    ({'somebody.elses': 1}, ''),
])
def test_changes_are_refused_as_a_set(changes, told):
    before = dict(DEFAULTS)
    reason = params.refusal(before, changes, SPEC)
    assert told in reason and bool(told) is bool(reason)
    assert before == DEFAULTS


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_what_is_accepted_one_by_one_can_be_planned_with(seed):
    loop, values, rng = make_loop(SPEC), dict(DEFAULTS), np.random.default_rng(seed)
    for draw in range(100):
        name, value = fuzz.setting(EVERY, rng)
        if in_range(name, value) and not params.refusal(values, {name: value}, SPEC):
            values[name] = value
            loop.settings = params.settings_of(values)
            loop.keep(caches_of(values, SPEC))
            feed(loop, START + draw * STEP)
            loop.plan(START + draw * STEP)


def in_range(name, value):
    """Return what rclpy says of a value, which lets NaN pass."""
    param = next(param for param in EVERY if param.name == name)
    return param.low is None or not (value < param.low or value > param.high)


def test_a_dump_of_all_parameters_comes_back_from_its_file(make_node, tmp_path):
    first = make_node(control_rate=20.0, **{'limits.x.max_velocity': 0.5,
                                            'action_fields': ['b', 'a'], 'enable_output': True})
    params.declare(first, EVERY)
    dump = tmp_path / 'policy.yaml'
    dump.write_text(yaml.safe_dump({'/policy': {'ros__parameters': values_of(first)}}))
    again = make_node(['--ros-args', '--params-file', str(dump)])
    params.declare(again, EVERY)
    assert values_of(again) == values_of(first)
    assert values_of(again)['limits.y.max_velocity'] == np.inf


def test_a_dump_of_the_defaults_comes_back_whatever_the_policy_calls_its_actions(
        make_node, tmp_path):
    dump = tmp_path / 'policy.yaml'  # an unquoted y is a truth value to ROS and a word to PyYAML
    dump.write_text(yaml.safe_dump({'/policy': {'ros__parameters': DEFAULTS}}))
    again = make_node(['--ros-args', '--params-file', str(dump)])
    params.declare(again, EVERY)
    assert values_of(again) == DEFAULTS


def test_the_files_in_config_can_be_declared(make_node):
    for name in ('policy', 'pusht'):
        path = DOCS.parent.parent / 'config' / f'{name}.yaml'
        node = make_node(['--ros-args', '--params-file', str(path)])
        params.declare(node, EVERY)
        params.freeze(values_of(node), SPEC)
        assert node.get_parameter('enable_output').value is (name == 'pusht')


def test_the_documentation_is_what_the_table_renders():
    assert DOCS.read_text() == render(), (
        'run python -m diffusion_policy_rt.ros.param_page > docs/parameters.md')


def test_ranges_of_integers_and_floats_are_both_described():
    whole = params.descriptor(Param('a', 1, 'A.', 0, 9))
    real = params.descriptor(Param('a', 1.0, 'A.', 0, 9))
    assert (whole.integer_range[0].to_value, len(whole.floating_point_range)) == (9, 0)
    assert (real.floating_point_range[0].to_value, len(real.integer_range)) == (9.0, 0)
