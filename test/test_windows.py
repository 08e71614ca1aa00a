"""Training windows stay within their episode and line up with what runs."""

import numpy as np
import pytest
from fakes import tiny_spec
from hypothesis import given
from hypothesis import strategies as st

from diffusion_policy_rt.runtime.observation import observed
from diffusion_policy_rt.train.windows import (
    chunks, condition_rows, make_windows, split_episodes)

lengths = st.lists(st.integers(1, 12), min_size=1, max_size=8)
shapes = st.tuples(st.integers(1, 4), st.integers(4, 16))


def episode_of(rows, ends):
    return np.searchsorted(ends, rows, side='right')


@given(lengths, shapes)
def test_there_is_one_window_per_row_and_none_crosses_an_episode(lengths, shape):
    ends = np.cumsum(lengths)
    windows = make_windows(ends, *shape)
    own = episode_of(np.arange(ends[-1]), ends)[:, None]
    assert windows.observed.shape == (ends[-1], shape[0])
    assert windows.acted.shape == (ends[-1], shape[1])
    for rows in (windows.observed, windows.acted):
        assert (episode_of(rows, ends) == own).all()


@given(lengths, shapes)
def test_the_action_of_column_n_obs_minus_1_belongs_to_the_newest_observation(lengths, shape):
    ends = np.cumsum(lengths)
    windows = make_windows(ends, *shape)
    np.testing.assert_array_equal(windows.observed[:, -1], np.arange(ends[-1]))
    np.testing.assert_array_equal(windows.acted[:, shape[0] - 1], np.arange(ends[-1]))


@given(lengths, shapes)
def test_rows_follow_one_another_except_where_the_end_is_repeated(lengths, shape):
    ends = np.cumsum(lengths)
    starts = np.concatenate(([0], ends[:-1]))
    for rows in vars(make_windows(ends, *shape)).values():
        step = np.diff(rows, axis=1)
        repeated = np.isin(rows[:, 1:], (starts, ends - 1)) & (rows[:, 1:] == rows[:, :-1])
        assert ((step == 1) | repeated).all()


def test_an_example_of_padding():
    windows = make_windows(np.array([3, 5]), 2, 4)
    assert windows.observed.tolist() == [[0, 0], [0, 1], [1, 2], [3, 3], [3, 4]]
    assert windows.acted.tolist() == [
        [0, 0, 1, 2], [0, 1, 2, 2], [1, 2, 2, 2], [3, 3, 4, 4], [3, 4, 4, 4]]


@given(lengths.filter(lambda x: sum(x) > 1), st.floats(0, 0.9), st.integers(0, 99))
def test_whole_episodes_are_held_out_at_about_the_ratio(lengths, ratio, seed):
    ends = np.cumsum(lengths)
    held_out = split_episodes(ends, ratio, seed)
    per_episode = [set(part) for part in np.split(held_out, ends[:-1])]
    assert all(len(values) == 1 for values in per_episode)
    assert abs(sum(True in v for v in per_episode) - len(ends) * ratio) <= 0.5 + 1e-9
    np.testing.assert_array_equal(held_out, split_episodes(ends, ratio, seed))


def test_another_seed_holds_out_other_episodes():
    ends = np.arange(1, 101)
    assert not np.array_equal(split_episodes(ends, 0.1, 0), split_episodes(ends, 0.1, 1))


def test_relative_chunks_are_counted_from_the_newest_observed_state():
    actions = np.arange(10, dtype=np.float32).reshape(5, 2)
    states = 100 * np.arange(15, dtype=np.float32).reshape(5, 3)
    windows = make_windows(np.array([5]), 2, 4)
    made = chunks(windows, actions, states, np.array([1, 0]))
    assert made.dtype == np.float32 and made.shape == (5, 4, 2)
    assert made[2, 3].tolist() == (actions[4] - states[2, [1, 0]]).tolist()
    np.testing.assert_array_equal(chunks(windows, actions, states, None), actions[windows.acted])


@pytest.mark.parametrize('n_obs', [1, 2, 3])
def test_training_conditions_are_those_the_loop_makes(n_obs):
    spec, rng = tiny_spec(n_obs, ('front', 'wrist')), np.random.default_rng(0)
    latents = {name: rng.standard_normal((6, 8), np.float32) for name in ('wrist', 'front')}
    states = rng.standard_normal((6, 3))
    windows = make_windows(np.array([2, 6]), n_obs, 8)
    made = condition_rows(spec, latents, states, windows)
    for row, seen in zip(made, windows.observed):
        own = {name: list(x[seen]) for name, x in latents.items()}
        np.testing.assert_array_equal(row, observed(spec, own, states[seen]))
