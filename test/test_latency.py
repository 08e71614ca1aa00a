"""The step count follows from what was measured on this machine."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from diffusion_policy_rt.runtime.latency import LatencyModel, choose_steps

MS = 1_000_000
allowed = st.sets(st.integers(1, 16), min_size=1).map(lambda s: tuple(sorted(s)))
costs = st.dictionaries(st.integers(1, 16), st.lists(st.integers(1, 1000), min_size=1))


def measured(durations, window=256):
    model = LatencyModel(window)
    for stage, values in durations.items():
        for value in values:
            model.record(stage, value)
    return model


@given(allowed, costs, st.integers(-10, 1200))
def test_the_most_steps_that_fit_are_chosen_and_the_fewest_when_none_fits(counts, cost, left):
    model = measured(cost)
    steps = choose_steps(counts, model, left)
    fitting = [n for n in counts if model.p99_ns(n) <= left]
    assert steps in counts
    assert steps == (fitting[-1] if fitting else counts[0])
    assert not fitting or model.p99_ns(steps) <= left


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=50), st.integers(1, 20))
def test_p99_is_that_of_the_newest_durations(values, window):
    model = measured({'encode': values}, window)
    newest = values[-window:]
    assert min(newest) <= model.p99_ns('encode') <= max(newest)
    assert model.p99_ns('encode') == np.percentile(newest, 99)


def test_stages_do_not_mix_and_an_unmeasured_stage_costs_nothing():
    model = measured({1: [10], 2: [20]})
    assert (model.p99_ns(1), model.p99_ns(2), model.p99_ns(3)) == (10, 20, 0)


def test_after_clear_nothing_is_measured():
    model = measured({1: [10]})
    model.clear()
    assert model.p99_ns(1) == 0


def test_a_slow_spell_is_forgotten_once_it_left_the_window():
    assert measured({4: [1000] + [10] * 256}).p99_ns(4) == 10


def test_one_hiccup_does_not_exclude_a_step_count_for_ever():
    model = LatencyModel()
    for ms in [10] * 30 + [90]:
        model.record(4, ms * MS)
    chosen = []
    for _ in range(200):
        chosen.append(choose_steps((2, 4), model, 25 * MS))
        if chosen[-1] == 2:
            model.pass_over(4)
    assert chosen[0] == 2 and chosen[-1] == 4


def test_a_step_count_that_is_slow_in_earnest_stays_excluded():
    model = LatencyModel()
    for ms in range(30, 50):
        model.record(4, ms * MS)
    chosen = []
    for _ in range(2000):
        chosen.append(choose_steps((2, 4), model, 25 * MS))
        if chosen[-1] == 2:
            model.pass_over(4)
        else:
            model.record(4, 40 * MS)
    assert chosen.count(4) == 0
