"""The spec: exact JSON, refusals that name the culprit, and the map of actions."""

import dataclasses
import json
import math

import numpy as np
import pytest
from fakes import ACTIONS, STATES, tiny_spec
from hypothesis import given
from hypothesis import strategies as st

from diffusion_policy_rt.errors import SpecError
from diffusion_policy_rt.spec import CameraSpec, PolicySpec, Schedule, VectorSpec

numbers = st.floats(-1e6, 1e6)
scales = st.floats(1e-6, 1e6)


@st.composite
def specs(draw):
    n_obs = draw(st.integers(1, 4))
    height, width = draw(st.integers(2, 500)), draw(st.integers(2, 500))
    crop = draw(st.none() | st.tuples(st.integers(1, height), st.integers(1, width)))
    names = draw(st.sets(st.text(min_size=1), min_size=1, max_size=3))
    spec = tiny_spec(n_obs, kind=draw(st.sampled_from(('edm', 'ddpm', 'flow'))))
    return dataclasses.replace(
        spec, rate=draw(scales), clip=draw(st.none() | scales),
        cameras=tuple(CameraSpec(name, height, width, draw(st.integers(1, 99)), crop)
                      for name in sorted(names)),
        state=VectorSpec(('a', 'b'), ('m', 'rad'), (-math.inf, -1), (2, math.inf),
                         (draw(numbers), 0), (draw(scales), 1)))


@given(specs())
def test_json_gives_back_exactly_the_spec_it_was_made_of(spec):
    assert PolicySpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


def change(path, value):
    """Return the tiny spec's JSON with one value replaced (or removed, for None)."""
    data = json.loads(json.dumps(tiny_spec().to_json()))
    *parents, last = path
    part = data
    for key in parents:
        part = part[key]
    part[last] = value
    if value is None:
        del part[last]
    return data


@pytest.mark.parametrize('path, value, culprit', [
    (['speed'], 1, 'speed'),
    (['cameras', 0, 'fps'], 1, 'fps'),
    (['action', 'unit'], 'm', 'unit'),
    (['horizon'], None, 'horizon'),
    (['state', 'names'], None, 'names'),
    (['cameras'], None, 'cameras'),
    (['precond'], None, 'precond'),
    (['schedules'], None, 'schedule'),
    (['cameras', 0, 'height'], '12', 'height'),
    (['cameras', 0, 'height'], 12.5, 'height'),
    (['cameras', 0, 'latent_dim'], 0, 'latent_dim'),
    (['cameras', 0, 'crop'], [13, 16], 'crop'),
    (['cameras', 0, 'crop'], [5], 'crop'),
    (['cameras', 0, 'std'], [1, 1, 0], 'std'),
    (['cameras', 0, 'std'], [1, 1, math.nan], 'std'),
    (['cameras', 0, 'mean'], [1, math.nan, 1], 'mean'),
    (['cameras'], 'front', 'cameras'),
    (['cameras'], 7, 'cameras'),
    (['state', 'offset'], [0, math.nan, 0], 'offset'),
    (['state', 'scale'], [1, 0, 1], 'scale'),
    (['state', 'scale'], [1, math.inf, 1], 'scale'),
    (['state', 'low'], [0, 0], 'low'),
    (['state', 'low'], [0, math.nan, 0], 'low'),
    (['state', 'high'], [-9, 9, 1], 'high'),
    (['state', 'names'], ['x', 'x', 'y'], 'twice'),
    (['state', 'names'], 'xyz', 'state'),
    (['state'], [1, 2], 'state'),
    (['action', 'reference'], 'goal', 'goal'),
    (['precond', 'kind'], 'vp', 'vp'),
    (['precond', 'sigma_data'], math.nan, 'sigma_data'),
    (['precond', 'sigma_data'], math.inf, 'sigma_data'),
    (['schedules', '1', 'sigmas'], [math.nan], 'sigmas'),
    (['schedules', '2', 'sigmas'], [1, 2], 'sigmas'),
    (['schedules', '2', 'sigmas'], [1], 'schedule'),
    (['schedules', 'two'], {'kind': 'ddim', 'sigmas': [1]}, 'two'),
    (['schedules'], [1, 2], 'schedules'),
    (['rate'], math.nan, 'rate'),
    (['rate'], '10', 'rate'),
    (['clip'], math.nan, 'clip'),
    (['clip'], -1, 'clip'),
    (['n_obs'], 0, 'n_obs'),
    (['n_obs'], 2.0, 'n_obs'),
    (['n_action_steps'], 8, 'n_action_steps'),
])
def test_a_wrong_value_is_refused_by_name(path, value, culprit):
    with pytest.raises(SpecError, match=culprit) as caught:
        PolicySpec.from_json(change(path, value))
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('levels', [(1,), (2, 1), (1, 1), (0, 1), (1, math.nan), (1, math.inf)])
def test_ddpm_levels_must_be_finite_positive_and_rising(levels):
    data = change(['precond'], {'kind': 'ddpm', 'sigma_data': 1, 'levels': levels})
    with pytest.raises(SpecError, match='levels'):
        PolicySpec.from_json(data)


def test_relative_actions_need_states_of_the_same_names():
    data = change(['action', 'reference'], 'state')
    data['action']['names'] = ['z', 'x']
    with pytest.raises(SpecError, match='same names'):
        PolicySpec.from_json(data)


arrays = st.lists(st.lists(st.floats(-8, 8), min_size=2, max_size=2), min_size=1, max_size=8)
states = st.tuples(st.floats(-9, 9), st.floats(-9, 9), st.floats(0, 1)).map(np.array)


@pytest.mark.parametrize('reference', ['absolute', 'state'])
@given(arrays, states)
def test_decoding_inverts_encoding_within_the_bounds(reference, actions, state):
    spec = tiny_spec(reference=reference)
    back = spec.decode_actions(spec.encode_actions(np.array(actions), state), state)
    assert back.dtype == np.float32
    np.testing.assert_allclose(back, actions, atol=1e-5)


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=2), states)
def test_decoded_actions_never_leave_the_bounds(values, state):
    decoded = tiny_spec(reference='state').decode_actions(np.array([values]), state)
    assert (np.abs(decoded) <= 9).all()


def test_relative_actions_are_counted_from_the_state_of_their_own_name():
    spec = tiny_spec(reference='state')
    state = {'x': 1.0, 'y': 2.0, 'grip': 0.5}
    zero = spec.action.normalise(np.zeros((1, 2)))  # no offset from the state
    decoded = spec.decode_actions(zero, np.array([state[n] for n in STATES]))
    np.testing.assert_allclose(decoded[0], [state[n] for n in ACTIONS], atol=1e-6)


def test_normalising_maps_offset_to_zero_and_one_scale_to_one():
    state = tiny_spec().state
    np.testing.assert_array_equal(state.normalise(np.array(state.offset)), 0)
    np.testing.assert_array_equal(
        state.normalise(np.array(state.offset) + np.array(state.scale)), 1)


@given(st.lists(numbers, min_size=3, max_size=3))
def test_denormalising_inverts_normalising(values):
    state = tiny_spec().state
    back = state.denormalise(state.normalise(np.array(values)))
    np.testing.assert_allclose(back, values, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize('bad', [math.nan, math.inf, -math.inf])
def test_validate_names_the_value_that_is_not_finite(bad):
    with pytest.raises(SpecError, match='^y is not finite'):
        tiny_spec().state.validate(np.array([0, bad, 0]))


def test_validate_refuses_another_length_and_takes_the_example():
    state = tiny_spec().state
    with pytest.raises(SpecError, match='expected 3 values'):
        state.validate(np.zeros(2))
    state.validate(state.example())
    assert (state.example() >= state.low).all() and (state.example() <= state.high).all()


def test_an_unknown_camera_or_step_count_lists_the_known():
    with pytest.raises(SpecError, match='front'):
        tiny_spec().camera('back')
    with pytest.raises(SpecError, match=r'\[1, 2, 4\] steps, not 3'):
        tiny_spec().schedule(3)


def test_the_condition_holds_latents_and_state_of_every_instant():
    assert tiny_spec(3, ('a', 'b')).cond_dim == 3 * (8 + 8 + 3)


def test_a_spec_cannot_be_changed():
    with pytest.raises(AttributeError):
        tiny_spec().rate = 5
    with pytest.raises(AttributeError):
        Schedule('ddim', (1,)).kind = 'ancestral'
