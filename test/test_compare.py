"""Two policies on the same seeds: the paired difference and its interval."""

import numpy as np
import pytest

from diffusion_policy_rt.errors import DataError
from diffusion_policy_rt.replay.compare import paired_difference
from diffusion_policy_rt.replay.evaluate import bootstrap


def episodes(scores, first=200_000):
    return [{'seed': first + i, 'max_coverage': float(s), 'success': bool(s > 0.9)}
            for i, s in enumerate(scores)]


def test_a_small_steady_gain_is_seen_through_hard_and_easy_seeds():
    rng = np.random.default_rng(0)
    theirs = rng.uniform(0, 0.9, 60)
    ours = theirs + 0.05 + rng.normal(0, 0.02, 60)
    result = paired_difference(episodes(ours), episodes(theirs))
    low, high = result['ci95']
    assert result['difference'] == pytest.approx((ours - theirs).mean())
    assert 0 < low < result['difference'] < high and result['episodes'] == 60
    assert bootstrap(ours)[0] < theirs.mean(), 'which the separate intervals do not show'


def test_swapping_the_sides_turns_the_sign():
    a, b = (episodes(np.random.default_rng(seed).uniform(size=30)) for seed in (1, 2))
    there, back = paired_difference(a, b), paired_difference(b, a)
    assert there['difference'] == pytest.approx(-back['difference'])
    np.testing.assert_allclose(there['ci95'], [-x for x in back['ci95'][::-1]], atol=2e-3)


def test_seeds_are_paired_whatever_their_order():
    a = episodes([0.1, 0.5, 0.9])
    result = paired_difference(a, a[::-1])
    assert result['difference'] == 0 and result['ci95'] == [0, 0]


def test_success_can_be_compared_too():
    result = paired_difference(episodes([1.0, 1.0, 0.2]), episodes([1.0, 0.2, 0.2]), 'success')
    assert result['difference'] == pytest.approx(1 / 3) and result['key'] == 'success'


@pytest.mark.parametrize('ours, theirs, reason', [
    (episodes([0.1] * 3), episodes([0.1] * 2), 'seed 200002'),
    (episodes([0.1] * 3), episodes([0.1] * 3, first=200_001), 'seed 200000'),
    ([], [], 'none')])
def test_other_seeds_are_no_comparison(ours, theirs, reason):
    with pytest.raises(DataError, match=reason):
        paired_difference(ours, theirs)
