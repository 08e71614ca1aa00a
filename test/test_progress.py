"""Which windows are chosen: those that bring success nearer than was to be expected."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip('torch', reason='training needs torch')

from diffusion_policy_rt.errors import DataError, SpecError  # noqa: E402
from diffusion_policy_rt.share import read_yaml  # noqa: E402
from diffusion_policy_rt.train.data import join, read_dataset  # noqa: E402
from diffusion_policy_rt.train.data.dataset import Dataset  # noqa: E402
from diffusion_policy_rt.train.data.streams import MayLack  # noqa: E402
from diffusion_policy_rt.train.distributed import World  # noqa: E402
from diffusion_policy_rt.train.progress import (  # noqa: E402
    ValueObjective, chosen_windows, gained_steps, outcomes)
from diffusion_policy_rt.train.recipe import Selection, parse_recipe  # noqa: E402
from diffusion_policy_rt.train.trainer import Trainer  # noqa: E402

CPU = torch.device('cpu')
HOW = Selection(epochs=40, batch_size=64, learning_rate=3e-3, weight_decay=0.0, ema_decay=0.98,
                ahead=4, least=-0.5)
lengths = st.lists(st.integers(1, 30), min_size=1, max_size=8)


def data(episodes, met=True, before=0):
    """Return a data set of these episodes' states [T], which met success or did not.

    Success is met in the last row, or so many rows `before`.
    """
    ends = np.cumsum([len(e) for e in episodes]).astype(np.int64)
    success = np.zeros((ends[-1], 1), np.float32)
    success[ends - 1 - before, 0] = met
    return Dataset({'state': np.concatenate(episodes)[:, None].astype(np.float32),
                    'success': success}, ends, None, 'a test', {})


def told(lengths, met):
    """Return what a data set of episodes of these lengths tells of their success."""
    return outcomes(data([np.zeros(length) for length in lengths], met))


@given(lengths)
def test_what_goes_as_expected_gains_nothing(lengths):
    for met in (False, True):
        found = told(lengths, met)
        assert found.met.all() == met and found.left.max() == max(lengths) - 1
        assert found.left[np.cumsum(lengths) - 1].tolist() == [0] * len(lengths)
        assert not gained_steps(found.left.astype(float), found, 5).any()


@given(lengths, st.integers(1, 12), st.floats(0, 100))
def test_standing_still_loses_the_time_it_takes(lengths, ahead, far):
    found = told(lengths, False)
    gained = gained_steps(np.full(sum(lengths), far), found, ahead)
    np.testing.assert_allclose(gained, -np.minimum(ahead, found.left))


def test_a_leap_gains_what_it_spares():
    steps = np.array([20.0, 19, 18, 8, 7, 6])
    assert gained_steps(steps, told([6], False), 2).tolist() == [0, 9, 9, 0, 0, 0]


def test_success_that_came_is_not_expected_any_more():
    found = told([3, 3], np.array([False, True]))
    assert gained_steps(np.full(6, 5.0), found, 1).tolist() == [-1, -1, 0, -1, 4, 5]


@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=8), min_size=1, max_size=8))
def test_success_is_met_where_an_episode_first_tells_it_wherever_that_is(episodes):
    whole = data([np.zeros(len(e)) for e in episodes])
    whole.streams['success'][:, 0] = np.concatenate(episodes)
    found = outcomes(whole)
    for e, met, left in zip(episodes, *(np.split(part, whole.episode_ends[:-1])
                                        for part in found)):
        assert met.tolist() == [any(e)] * len(e)
        last = e.index(True) if any(e) and not all(e) else len(e) - 1
        assert left.tolist() == list(range(last, last - len(e), -1))


def walk(rng, hesitates):
    """From 1 to 0 in steps of 1/20; who hesitates stands for ten steps on the way."""
    states = np.linspace(1, 0.05, 20)
    at = int(rng.integers(3, 15))
    return np.insert(states, [at] * 10, states[at]) if hesitates else states


@pytest.fixture(scope='module')
def walks():
    rng = np.random.default_rng(0)
    return [walk(rng, k % 2) for k in range(60)]


def choose(walks, folder, **more):
    whole = data(walks, **more)

    def fit(objective):
        return Trainer(objective, HOW, World(0, 1, CPU), 0, folder / 'p.ckpt', 'x').run('progress')

    observed = 2 * whole.streams['state'] - 1
    torch.manual_seed(0)
    return whole, chosen_windows(HOW, observed, whole, np.array([0.01]), 1, CPU, fit)


def test_hesitation_is_left_out_and_the_way_is_kept(walks, tmp_path):
    whole, chosen = choose(walks, tmp_path)
    lengths = np.diff(whole.episode_ends, prepend=0)
    straight = np.repeat(lengths == 20, lengths)
    stands = np.zeros(len(chosen), bool)
    state = whole.streams['state'][:, 0]
    stands[:-4] = (state[:-4] == state[4:]) & ~straight[:-4]
    assert chosen[straight].mean() > 0.9
    assert chosen[stands].mean() < 0.05 and stands.sum() > 100


def test_all_is_learned_where_nothing_is_selected(walks):
    assert chosen_windows(None, np.zeros((7, 1), np.float32), data(walks), np.zeros(1), 1, CPU,
                          lambda objective: pytest.fail('nothing to fit')).all()


def test_what_follows_success_is_learned_and_teaches_that_it_has_come():
    whole = data([np.linspace(1, 0, 26)] * 20, before=6)
    found, seen, taught = outcomes(whole), whole.streams['state'], []

    def fit(objective):
        taught.append(objective.targets.numpy())
        return objective.module

    chosen = chosen_windows(HOW, seen, whole, np.zeros(1), 1, CPU, fit)
    assert (found.left < 0).sum() == 6 * 20 and chosen[found.left < 0].all()
    np.testing.assert_allclose(taught[0], HOW.discount ** np.maximum(found.left, 0), rtol=1e-6)


def test_of_other_episodes_all_is_learned_but_the_end(walks, tmp_path):
    whole, chosen = choose(walks, tmp_path, met=np.arange(60) < 30)
    untold = np.repeat(np.arange(60) >= 30, np.diff(whole.episode_ends, prepend=0))
    end = outcomes(whole).left < HOW.ahead
    assert chosen[untold & ~end].all() and not chosen[untold & end].any()
    assert 0.3 < chosen[~untold].mean() < 0.95


def test_without_a_success_there_is_nothing_to_go_by(walks, tmp_path):
    with pytest.raises(DataError, match='no episode tells that it met success'):
        choose(walks, tmp_path, met=False)


def test_episodes_that_tell_no_success_teach_no_value(walks):
    whole = join([data(walks[:30]), data(walks[30:], met=False)])
    objective = ValueObjective(whole.streams['state'], whole.episode_ends,
                               outcomes(whole), np.zeros(1), HOW, CPU)
    rows = np.concatenate([objective.train_rows, objective.held_out])
    assert 0 < len(rows) and rows.max() < sum(len(w) for w in walks[:30])


def test_a_data_set_may_lack_the_stream(tmp_path):
    np.savez(tmp_path / 'a.npz', state=np.ones((3, 1)), success=np.array([0, 0, 1]),
             episode_ends=np.array([3]))
    np.savez(tmp_path / 'b.npz', state=np.ones((2, 1)), episode_ends=np.array([2]))
    keys = {'state': ('state',), 'success': MayLack(('success', 'next.success'))}
    sets = [read_dataset(tmp_path / name, keys) for name in ('b.npz', 'a.npz')]
    assert 'success' not in sets[0].streams
    assert join(sets).streams['success'][:, 0].tolist() == [0, 0, 0, 0, 1]
    with pytest.raises(DataError, match="stream 'success' is not there"):
        read_dataset(tmp_path / 'b.npz', {**keys, 'success': ('success',)})


def test_selecting_needs_pretrained_encoders():
    recipe = dict(read_yaml('pusht_small', 'recipe'))
    recipe['select'] = {'epochs': 1, 'batch_size': 8, 'learning_rate': 1e-3}
    assert parse_recipe(recipe).select.ahead == 12
    del recipe['pretrain']
    with pytest.raises(SpecError, match='add `pretrain`'):
        parse_recipe(recipe)
