"""Noise levels, samplers and preconditioning, against closed forms of a Gaussian."""

import math

import numpy as np
import pytest
from fakes import precond
from hypothesis import given
from hypothesis import strategies as st

from diffusion_policy_rt.runtime.precond import denoise
from diffusion_policy_rt.runtime.sampler import estimates, sample
from diffusion_policy_rt.runtime.schedule import (
    default_schedules, flow_sigmas, karras_sigmas, spaced_levels, squared_cosine_levels)
from diffusion_policy_rt.spec import Preconditioning, Schedule

MU, DEVIATION = 0.3, 0.5
LEVELS = squared_cosine_levels(100)
pairs = st.tuples(st.floats(0.01, 100), st.floats(0.01, 0.99)).map(lambda p: (p[0], p[0] * p[1]))


def exact(x, sigma, stop=0.0):
    """E[x0 | x] of data N(MU, DEVIATION^2) under noise sigma."""
    return (DEVIATION**2 * x + sigma**2 * MU) / (DEVIATION**2 + sigma**2)


def gaussian_sample(kind, n, count=1):
    schedule = Schedule(kind, tuple(karras_sigmas(n, 0.002, 80)))
    noise = np.random.default_rng(1).standard_normal((count, 1))
    return noise, sample(exact, schedule, noise, DEVIATION, None, np.random.default_rng(2))


@pytest.mark.parametrize('kind', ['ddim', 'ancestral'])
def test_one_step_of_the_exact_denoiser_gives_the_mean(kind):
    _, x = gaussian_sample(kind, 1, 1000)
    assert np.abs(x - MU).max() < 0.02  # what is left is DEVIATION^2 / 80 of the noise


def test_ddim_converges_to_the_exact_flow_as_steps_grow():
    errors = []
    for n in (4, 16, 64, 256):
        noise, x = gaussian_sample('ddim', n, 1000)
        errors.append(np.abs(x - (MU + DEVIATION * noise)).max())
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.05


@pytest.mark.parametrize('kind', ['ddim', 'ancestral'])
def test_many_steps_of_the_exact_denoiser_give_mean_and_deviation_of_the_data(kind):
    _, x = gaussian_sample(kind, 400, 20000)
    assert abs(x.mean() - MU) < 0.015 and abs(x.std() / DEVIATION - 1) < 0.02


@given(pairs, st.floats(-3, 3), st.floats(-3, 3), st.integers(0, 99))
def test_an_ancestral_step_is_the_posterior_of_ho_et_al_eq_7(sigmas, noise, x0, seed):
    seen = []
    schedule = Schedule('ancestral', sigmas)
    sample(lambda x, *_: seen.append(x) or np.full_like(x, x0), schedule, np.full((1, 1), noise),
           1.0, None, np.random.default_rng(seed))
    fresh = np.random.default_rng(seed).standard_normal((1, 1))
    kept, kept_next = (1 / (1 + s**2) for s in sigmas)  # alpha bar of t and of t - 1
    alpha = kept / kept_next
    mean = (math.sqrt(kept_next) * (1 - alpha) / (1 - kept) * x0
            + math.sqrt(alpha) * (1 - kept_next) / (1 - kept) * math.sqrt(kept) * seen[0])
    variance = (1 - kept_next) / (1 - kept) * (1 - alpha)
    expected = (mean + math.sqrt(variance) * fresh) / math.sqrt(kept_next)
    np.testing.assert_allclose(seen[1], expected, rtol=1e-6, atol=1e-6)


@given(pairs, st.floats(-3, 3), st.floats(-3, 3))
def test_a_ddim_step_keeps_the_predicted_noise(sigmas, noise, x0):
    seen = []
    sample(lambda x, *_: seen.append(x) or np.full_like(x, x0), Schedule('ddim', sigmas),
           np.full((1, 1), noise))
    np.testing.assert_allclose((seen[0] - x0) / sigmas[0], (seen[1] - x0) / sigmas[1], atol=1e-6)


@pytest.mark.parametrize('kind', ['ddim', 'ancestral'])
@given(st.integers(1, 12), st.floats(0.1, 2))
def test_there_is_one_clipped_estimate_per_network_call(kind, n, clip):
    calls = []

    def network(x, sigma, stop):
        calls.append(sigma)
        return 10 * x

    schedule = Schedule(kind, tuple(karras_sigmas(n, 0.02, 80)))
    made = list(estimates(network, schedule, np.ones((4, 2)), 0.5, clip, np.random.default_rng(0)))
    assert len(made) == n and calls == list(schedule.sigmas)
    assert all(np.abs(x0).max() <= clip for x0 in made)


@pytest.mark.parametrize('bad', [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize('clip', [None, 1.0])
def test_clipping_never_makes_a_non_finite_estimate_finite(bad, clip):
    schedule = Schedule('ddim', (1.0,))
    x = sample(lambda x, *_: np.full_like(x, bad), schedule, np.zeros((1, 1)), 1, clip)
    assert not np.isfinite(x).any()


@pytest.mark.parametrize('kind', ['edm', 'ddpm', 'flow'])
def test_every_number_of_steps_gives_a_finite_sample(kind):
    pre = precond(kind)
    for n, schedule in default_schedules(pre, tuple(range(1, 21))).items():
        x = sample(exact, schedule, np.ones((3, 2)), pre.sigma_data, 1.0)
        assert np.isfinite(x).all() and len(schedule.sigmas) == n


@pytest.mark.parametrize('pre', [
    Preconditioning('edm', 0.5), Preconditioning('flow', 1),
    Preconditioning('ddpm', 1, tuple(LEVELS))])
@given(st.integers(0, 99), st.floats(-2, 2))
def test_every_preconditioning_of_the_exact_network_denoises_alike(pre, level, z):
    sigma = LEVELS[level]

    def network(scaled, c_noise, cond):
        """Return the exact output, from the network's own inputs alone."""
        if pre.kind == 'ddpm':
            s = LEVELS[round(c_noise)]
            x = scaled * np.sqrt(1 + s**2)
            return (x - exact(x, s)) / s
        if pre.kind == 'flow':
            t = c_noise / 1000
            return (scaled - exact(scaled / (1 - t), t / (1 - t))) / t
        s = np.exp(c_noise / 250)
        x = scaled * np.sqrt(s**2 + 0.25)
        return (exact(x, s) - 0.25 / (s**2 + 0.25) * x) * np.sqrt(s**2 + 0.25) / (0.5 * s)

    x = MU + np.hypot(sigma, DEVIATION) * np.full((1, 1), z)
    result = denoise(network, pre, x, sigma, np.zeros(0))
    np.testing.assert_allclose(result, exact(x, sigma), atol=1e-6 * max(1, abs(x).max()))


@given(st.integers(2, 50), st.floats(0.001, 1), st.floats(1.1, 1e3))
def test_karras_levels_fall_from_the_largest_to_the_smallest(n, low, ratio):
    sigmas = karras_sigmas(n, low, low * ratio)
    assert (np.diff(sigmas) < 0).all()
    np.testing.assert_allclose(sigmas[[0, -1]], [low * ratio, low], rtol=1e-9)


@given(st.integers(1, 50), st.floats(0.01, 1e3))
def test_the_levels_of_a_flow_are_evenly_spaced_in_its_time(n, sigma_max):
    sigmas = flow_sigmas(n, sigma_max)
    t = np.array([*sigmas / (1 + sigmas), 0.0])
    np.testing.assert_allclose(np.diff(t), -t[0] / n, rtol=1e-6)
    assert np.isclose(sigmas[0], sigma_max)


@given(st.integers(1, 200), st.data())
def test_spaced_levels_fall_from_the_noisiest_without_repeats(total, data):
    levels = np.arange(1, total + 1)
    picked = spaced_levels(levels, data.draw(st.integers(1, total)))
    assert picked[0] == total and (np.diff(picked) < 0).all()


@pytest.mark.parametrize('n', [0, 101])
def test_more_steps_than_levels_or_none_are_refused(n):
    with pytest.raises(ValueError, match='of 100 training levels'):
        spaced_levels(LEVELS, n)


def test_all_ddpm_levels_are_visited_ancestrally_and_fewer_by_ddim():
    made = default_schedules(precond('ddpm'), (1, 20))
    assert (made[1].kind, made[20].kind) == ('ddim', 'ancestral')


def test_squared_cosine_levels_are_those_of_the_published_alpha_bar():
    kept = 1 / (1 + LEVELS**2)
    t = np.arange(1, 100) / 100
    expected = np.cos((t + 0.008) / 1.008 * np.pi / 2)**2 / np.cos(0.008 / 1.008 * np.pi / 2)**2
    np.testing.assert_allclose(kept[:99], expected, rtol=1e-9)
