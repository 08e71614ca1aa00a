"""Noise levels: the training levels of DDPM, and the levels a sampler of n steps visits.

Everywhere in this package a sample at noise level sigma is `x = x0 + sigma * noise` (the
variance-exploding form); sigma falls while sampling. A variance-preserving sample is `x` divided
by `sqrt(1 + sigma**2)`.
"""

from __future__ import annotations

import math

import numpy as np

from diffusion_policy_rt.spec import Preconditioning, Schedule

SIGMA_MIN = 0.02
"""Where the levels of `edm` end, unless told otherwise."""


def squared_cosine_betas(n: int, max_beta: float = 0.999) -> list[float]:
    """Return the n betas of the squared-cosine DDPM schedule (Nichol & Dhariwal 2021)."""
    def alpha_bar(t: float) -> float:
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    return [min(1 - alpha_bar((i + 1) / n) / alpha_bar(i / n), max_beta) for i in range(n)]


def squared_cosine_levels(n: int) -> np.ndarray:
    """Return the n rising levels of the squared-cosine DDPM schedule."""
    kept = np.cumprod(1 - np.asarray(squared_cosine_betas(n)))
    return np.sqrt((1 - kept) / kept)


def karras_sigmas(n: int, sigma_min: float, sigma_max: float, rho: float = 7.0) -> np.ndarray:
    """Return n falling levels (Karras et al. 2022, eq. 5); [sigma_max] for n = 1."""
    ramp = np.linspace(0, 1, n)
    first, last = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return (first + ramp * (last - first)) ** rho


def flow_sigmas(n: int, sigma_max: float) -> np.ndarray:
    """Return n falling levels, evenly spaced in the time t = sigma / (1 + sigma) of a flow."""
    t = sigma_max / (1 + sigma_max) * np.arange(n, 0, -1) / n
    return t / (1 - t)


def spaced_levels(levels: np.ndarray, n: int) -> np.ndarray:
    """Return n falling levels, evenly spaced in training steps, from the noisiest ("trailing")."""
    total = len(levels)
    if not 1 <= n <= total:
        raise ValueError(f'{n} steps of {total} training levels')
    steps = np.round(np.arange(total, 0, -total / n)).astype(int) - 1
    return np.asarray(levels)[steps[:n]]


def default_schedules(precond: Preconditioning, counts: tuple[int, ...],
                      sigma_min: float = SIGMA_MIN, sigma_max: float = 80.0
                      ) -> dict[int, Schedule]:
    """Return one schedule per count: DDIM; ancestral where all DDPM levels are visited.

    For `edm` the n levels are the first of n + 1: the last step goes to zero from well above
    sigma_min, because with few steps a call at sigma_min itself changes nothing.
    """
    if precond.kind == 'flow':
        return {n: Schedule('ddim', tuple(flow_sigmas(n, sigma_max))) for n in counts}
    if precond.kind == 'edm':
        return {n: Schedule('ddim', tuple(karras_sigmas(n + 1, sigma_min, sigma_max)[:-1]))
                for n in counts}
    levels = np.asarray(precond.levels)
    return {n: Schedule('ancestral' if n == len(levels) else 'ddim',
                        tuple(spaced_levels(levels, n))) for n in counts}
