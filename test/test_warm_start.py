"""Warm start: the last chunk, shifted by due time and in the new frame, noised and denoised."""

import dataclasses

import numpy as np
import pytest
from fakes import MS, START, STEP, feed, make_loop, tiny_spec
from hypothesis import example, given
from hypothesis import strategies as st

from diffusion_policy_rt.errors import SpecError
from diffusion_policy_rt.runtime.caches import LEAST_LEVEL, CacheRules
from diffusion_policy_rt.runtime.chunk import Chunk, continued
from diffusion_policy_rt.runtime.sampler import sample
from diffusion_policy_rt.runtime.variants import (
    WARM_START, Variant, evenly_spaced, make_schedule, warmed, with_variant)
from diffusion_policy_rt.runtime.warm import REACH, WarmStart
from diffusion_policy_rt.spec import PolicySpec, Schedule

H = 8


def chunk(start_ns=0):
    """Return a chunk whose actions are their due times in steps, and minus these."""
    due = start_ns / STEP + np.arange(H)
    return Chunk(start_ns, STEP, np.stack([due, -due], 1), start_ns + STEP, 1)


def spec_of(sampler, start=0.0, steps=2, **changes):
    return with_variant(tiny_spec(**changes), Variant(sampler, start), steps)


def plans(spec, count, steps=2, every=3, gap=0):
    """Return a loop that planned `count` times, `every` steps apart, and its chunks."""
    loop, chunks = make_loop(spec, min_steps=steps, max_steps=steps), []
    for k in range(count):
        now = START + k * (every * STEP + gap)
        feed(loop, now)
        chunks.append(loop.plan(now).chunk)
    return loop, chunks


@given(st.integers(0, H - 2), st.integers(-49, 49))
def test_the_last_chunk_is_shifted_by_due_time_and_its_last_action_repeated(shift, jitter):
    start = shift * STEP + jitter * MS
    actions = continued(chunk(), start, start)
    expected = np.minimum(shift + np.arange(H), H - 1)
    np.testing.assert_array_equal(actions, np.stack([expected, -expected], 1))


@given(st.integers(-3 * STEP, 12 * STEP), st.integers(0, 3 * STEP))
def test_a_chunk_is_continued_while_it_has_an_action_due(start, later):
    old, now = chunk(), start + later
    actions = continued(old, start, now)
    assert (actions is None) == (not len(old.rest(now)))
    assert actions is None or actions.shape == old.actions.shape


def test_without_a_last_chunk_there_is_nothing_to_continue():
    assert continued(None, START, START) is None


@pytest.mark.parametrize('kind', ['edm', 'flow', 'ddpm'])
@pytest.mark.parametrize('reference', ['absolute', 'state'])
def test_the_first_plan_of_an_episode_is_that_of_the_plain_sampler(kind, reference):
    warm, plain = (spec_of(sampler, kind=kind, reference=reference)
                   for sampler in ('warm-start', 'ddim'))
    (loop, first), (_, expected) = (plans(spec, 2) for spec in (warm, plain))
    np.testing.assert_array_equal(first[0].actions, expected[0].actions)
    assert not np.array_equal(first[1].actions, expected[1].actions)
    loop.reset()
    feed(loop, START)
    np.testing.assert_array_equal(loop.plan(START).chunk.actions, expected[0].actions)


def test_a_chunk_that_is_used_up_is_no_guess():
    (_, made), (_, expected) = (plans(spec_of(sampler), 2, gap=H * STEP)
                                for sampler in ('warm-start', 'ddim'))
    np.testing.assert_array_equal(made[1].actions, expected[1].actions)


@pytest.mark.parametrize('reference', ['absolute', 'state'])
@pytest.mark.parametrize('every', [1, 3, 5])
def test_an_engine_that_denoises_to_what_it_was_given_gives_the_last_chunk(reference, every):
    """The actions due at the same times are the same in units, though the robot has moved."""
    spec = spec_of('warm-start', 1e-6, 1, reference=reference, clip=None)
    loop, (first,) = plans(spec, 1, steps=1)
    loop.engine.denoise = lambda x, *_: x
    now = START + every * STEP
    feed(loop, now)
    second = loop.plan(now).chunk
    expected = continued(first, second.start_ns, now)
    np.testing.assert_allclose(second.actions, expected, atol=1e-4)


def test_the_network_is_asked_at_the_levels_of_the_warm_start():
    spec = spec_of('warm-start', 1.5)
    loop, _ = plans(spec, 3)
    schedule = spec.schedule(2)
    assert loop.engine.denoised == [*schedule.sigmas, *2 * schedule.warm_sigmas]


@given(st.floats(-2, 2), st.floats(0.1, 3), st.floats(0, 1), st.integers(0, 99))
def test_a_share_of_the_first_warm_levels_noise_is_added_to_the_guess(guess, level, share, seed):
    seen, noise = [], np.random.default_rng(seed).standard_normal((4, 2))
    schedule = Schedule('ddim', (10.0,), warm_sigmas=(level,), warm_noise=share)
    sample(lambda x, sigma, stop: seen.append((x, sigma, stop)) or x, schedule, noise,
           guess=np.full((4, 2), guess))
    np.testing.assert_allclose(seen[0][0], guess + share * level * noise)
    assert seen[0][1:] == (level, 0.0) and len(seen) == 1


@pytest.mark.parametrize('kind, deviation', [('edm', 0.5), ('flow', 1.0)])
def test_the_level_is_relative_to_the_deviation_of_the_data_unless_chosen(kind, deviation):
    spec = tiny_spec(kind=kind)
    made, chosen = (make_schedule(spec, Variant('warm-start', start), 4) for start in (0, 0.7))
    assert made.warm_sigmas[0] == pytest.approx(WARM_START * deviation)
    assert chosen.warm_sigmas[0] == pytest.approx(0.7)
    assert made.sigmas == chosen.sigmas == spec.schedule(4).sigmas
    assert len(made.warm_sigmas) == 4


def test_a_warm_start_of_ddpm_visits_training_levels():
    spec = tiny_spec(kind='ddpm')
    made = make_schedule(spec, Variant('warm-start', 0.8), 3)
    assert made.warm_sigmas == tuple(evenly_spaced(spec.precond, 3, 0.8))
    assert set(made.warm_sigmas) <= set(spec.precond.levels)


@pytest.mark.parametrize('levels, reason', [
    ((1.0, 0.5, 0.1), '3 calls, more than the 2'), ((0.5, 1.0), 'falling'), ((0.0,), 'positive')])
def test_a_warm_start_that_cannot_be_is_refused(levels, reason):
    with pytest.raises(SpecError, match=reason):
        Schedule('ddim', (2.0, 1.0), warm_sigmas=levels)
    with pytest.raises(SpecError, match='warm_noise 1.5 must lie'):
        Schedule('ddim', (2.0, 1.0), warm_sigmas=(1.0,), warm_noise=1.5)
    with pytest.raises(SpecError, match='no noise that could be scaled'):
        make_schedule(tiny_spec(), Variant('ddim', noise_scale=0.5), 2)


def test_the_share_is_asked_for_by_the_sampler_and_by_the_rules_of_caches():
    asked = Variant('warm-start', noise_scale=0.5)
    assert make_schedule(tiny_spec(), asked, 2).warm_noise == 0.5
    assert make_schedule(tiny_spec(), Variant('warm-start'), 2).warm_noise == 1.0
    loop, _ = plans(tiny_spec(), 0)
    loop.keep(dataclasses.replace(loop.rules, warm_start=2.0, warm_noise=0.25))
    assert {s.warm_noise for s in loop._sampled.schedules.values()} == {0.25}


def test_a_bundle_may_serve_a_warm_start_and_need_not():
    spec = spec_of('warm-start')
    data = spec.to_json()
    assert PolicySpec.from_json(data) == spec
    del data['schedules']['2']['warm_sigmas']
    cold = dataclasses.replace(spec.schedule(2), warm_sigmas=())
    assert PolicySpec.from_json(data).schedule(2) == cold


class Pulled:
    """The exact denoiser of a Gaussian around a target: what is expected of a noisy chunk."""

    def __init__(self, deviation):
        self.target, self.variance = 0.0, deviation**2

    def __call__(self, x, sigma, *_):
        return (self.variance * x + sigma**2 * self.target) / (self.variance + sigma**2)


@pytest.mark.parametrize('level', [1.0, 2.0, 4.0])
def test_a_jump_of_the_target_is_followed_within_a_few_plans(level):
    wide = dataclasses.replace(tiny_spec().action, low=(-999, -999), high=(999, 999))
    loop, _ = plans(tiny_spec(clip=None, action=wide), 0, steps=1)
    loop.keep(dataclasses.replace(loop.rules, warm_start=level))
    loop.engine.denoise = pulled = Pulled(0.5)
    left, off = 1 / (1 + level**2), []  # of the jump, after each plan, but for the noise
    for now in range(START, START + 40 * STEP, STEP):
        pulled.target = 100.0 * (now >= START + 20 * STEP)
        feed(loop, now)
        action = loop.plan(now).chunk.rest(now)[0]
        off.append(pulled.target - (action[0] - wide.offset[0]) / wide.scale[0])
    assert np.abs(off[:20]).max() < 4
    assert off[20] == pytest.approx(100 * left, abs=4)
    assert np.abs(off[20 + int(np.ceil(np.log(0.01) / np.log(left))):]).max() < 4


def stands(steps=1):
    """Return a loop whose engine keeps to what it is given, and never moves by itself."""
    loop, _ = plans(tiny_spec(clip=None), 0, steps=steps)
    loop.keep(dataclasses.replace(loop.rules, warm_start=2.0))
    loop.engine.denoise = lambda x, sigma, *_: loop.engine.denoised.append(sigma) or 0 * x
    return loop


def test_a_robot_that_stands_is_planned_for_from_noise_again():
    loop = stands()
    for k in range(31):
        feed(loop, START + k * STEP)
        loop.plan(START + k * STEP)
    fresh = loop._sampled.schedule(1).sigmas[0]
    from_noise = [k for k, sigma in enumerate(loop.engine.denoised) if sigma == fresh]
    # the first plan has no chunk; then targets are known from the second plan on, for a second
    assert from_noise == [0, 11, 22]
    assert loop.cache_figures()['warm_start.restarts'] == 2
    assert loop.cache_figures()['warm_start.plans'] == 31 - 3


def test_a_robot_that_moves_is_never_taken_for_one_that_stands():
    warm, span = WarmStart((2.0, 2.0)), 2.1 * REACH  # in units, over each second
    for k in range(50):
        actions = np.full((8, 2), k * span / 10)
        made = Chunk(START + k * STEP, STEP, actions, START + k * STEP, 1)
        assert warm.of(made, START + k * STEP) is made
    assert (warm.plans, warm.restarts) == (50, 0)


@given(st.lists(st.integers(-3 * STEP, 20 * STEP), max_size=60))
def test_no_order_of_instants_keeps_more_targets_than_a_second_has(steps):
    warm, now = WarmStart((1.0, 1.0)), START
    for step in steps:
        now += step
        warm.of(Chunk(now, STEP, np.zeros((8, 2)), now, 1), now)
        assert len(warm._targets) <= 61
    warm.clear()
    assert warm.of(None, now) is None and not warm._targets


@given(st.sampled_from(['edm', 'flow', 'ddpm']), st.sampled_from([(1,), (1, 2, 4, 8), (10,)]),
       st.floats(LEAST_LEVEL, 100))
@example('edm', (1, 2, 4, 8), 0.02)
@example('ddpm', (10,), LEAST_LEVEL)
def test_every_level_that_is_one_makes_a_warm_start(kind, steps, level):
    spec = tiny_spec(kind=kind, steps=steps)
    for count, schedule in warmed(spec, CacheRules(warm_start=level).warm_start).schedules.items():
        assert 1 <= len(schedule.warm_sigmas) <= count
        if kind != 'ddpm':
            first = level * spec.precond.sigma_data
            assert schedule.warm_sigmas[0] == pytest.approx(first) and len(
                schedule.warm_sigmas) == count


@pytest.mark.parametrize('level', [-1.0, 5e-324, float('inf'), float('nan')])
def test_a_level_that_is_none_is_refused(level):
    with pytest.raises(SpecError, match='no noise level'):
        CacheRules(warm_start=level)


@pytest.mark.parametrize('share', [-0.1, 1.1, float('nan')])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(SpecError, match='no share; use 0 to 1'):
        CacheRules(warm_noise=share)
