"""From a recipe and a data set to a spec: statistics of the data, names of the recipe."""

import numpy as np
import pytest

pytest.importorskip('torch', reason='training needs torch')

from diffusion_policy_rt.errors import DataError, SpecError  # noqa: E402
from diffusion_policy_rt.share import find  # noqa: E402
from diffusion_policy_rt.train.assemble import columns, gather_chunks, make_spec  # noqa: E402
from diffusion_policy_rt.train.data import Dataset  # noqa: E402
from diffusion_policy_rt.train.recipe import load_recipe, parse_recipe  # noqa: E402
from diffusion_policy_rt.train.windows import make_windows  # noqa: E402

VECTOR = {'names': ['x', 'y'], 'units': ['px', 'px'], 'low': [-99, -99], 'high': [99, 99]}
RECIPE = {
    'name': 'tiny', 'rate': 10.0, 'n_obs': 2, 'horizon': 8, 'n_action_steps': 4, 'steps': [1, 4],
    'cameras': {'front': {'keys': ['img'], 'height': 12, 'width': 16}},
    'state': {'keys': ['state'], **VECTOR, 'index': [2, 0]},
    'action': {'keys': ['action'], **VECTOR, 'names': ['y', 'x'], 'reference': 'state'},
    'encoder': {'kind': 'keypoint'}, 'denoiser': {'kind': 'mlp'},
    'train': {'epochs': 1, 'batch_size': 8, 'learning_rate': 0.001}}


def dataset():
    rng = np.random.default_rng(0)
    streams = {'state': rng.normal(3, 5, (60, 3)).astype(np.float32),
               'action': rng.normal(3, 5, (60, 2)).astype(np.float32)}
    return Dataset(streams, np.array([25, 60]), 10.0, 'test', {k: k for k in streams})


def assembled(**changes):
    recipe, data = parse_recipe(RECIPE | changes), dataset()
    windows = make_windows(data.episode_ends, recipe.n_obs, recipe.horizon)
    gathered = gather_chunks(recipe, data, windows)
    states = columns(data, 'state', recipe.state)
    return make_spec(recipe, states, gathered, 8), states, gathered, windows


@pytest.mark.parametrize('kind', ['edm', 'ddpm', 'flow'])
def test_the_clip_holds_every_training_chunk_and_not_more(kind):
    spec, _, gathered, _ = assembled(parametrisation=kind)
    assert np.isclose(np.abs(spec.action.normalise(gathered)).max(), spec.clip)


def test_edm_actions_have_mean_zero_and_the_deviation_of_the_preconditioning():
    spec, _, gathered, _ = assembled()
    normalised = spec.action.normalise(gathered).reshape(-1, 2)
    np.testing.assert_allclose(normalised.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(normalised.std(0), spec.precond.sigma_data, rtol=1e-6)


def test_states_span_minus_one_to_one():
    spec, states, _, _ = assembled()
    normalised = spec.state.normalise(states)
    np.testing.assert_allclose([normalised.min(0), normalised.max(0)], [[-1, -1], [1, 1]],
                               atol=1e-6)


def test_what_training_encodes_the_robot_decodes_to_the_demonstrated_action():
    spec, states, gathered, windows = assembled()
    demonstrated = dataset().streams['action'][windows.acted]
    for k in (0, 24, 25, 59):
        decoded = spec.decode_actions(spec.action.normalise(gathered[k]), states[k])
        np.testing.assert_allclose(decoded, demonstrated[k], atol=1e-4)


def test_a_constant_column_does_not_divide_by_zero():
    action = RECIPE['action'] | {'reference': 'absolute'}
    recipe, data = parse_recipe(RECIPE | {'action': action}), dataset()
    data.streams['state'][:, :2], data.streams['action'][:, 1] = 7, 7
    windows = make_windows(data.episode_ends, 2, 8)
    spec = make_spec(recipe, columns(data, 'state', recipe.state),
                     gather_chunks(recipe, data, windows), 8)
    for vector in (spec.state, spec.action):
        assert np.isfinite(vector.normalise(np.zeros(2))).all()


def test_columns_that_the_data_lack_are_refused_with_what_is_there():
    recipe = parse_recipe(RECIPE | {'state': RECIPE['state'] | {'index': [0, 3]}})
    with pytest.raises(DataError, match="'state' has 3 columns"):
        columns(dataset(), 'state', recipe.state)


@pytest.mark.parametrize('changes, culprit', [
    ({'speed': 1}, 'speed'), ({'rate': '10 Hz'}, 'rate'), ({'horizon': 8.5}, 'horizon'),
    ({'train': RECIPE['train'] | {'learning_rate': '1e-3'}}, 'learning_rate'),  # YAML's 1e-3
    ({'train': {'epochs': 1}}, 'batch_size'), ({'cameras': {'front': {'fps': 3}}}, 'fps')])
def test_a_wrong_recipe_is_refused_by_name(changes, culprit):
    with pytest.raises(SpecError, match=culprit):
        parse_recipe(RECIPE | changes)


def test_every_shipped_recipe_is_sound():
    names = [path.stem for path in find('config/recipes').iterdir()
             if not path.stem.startswith('distill_')]  # test_cli_distill.py reads those
    assert names
    for name in names:
        assert load_recipe(name).source['name']
