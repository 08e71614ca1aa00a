"""From the raw network F to the denoised estimate D(x) = c_skip x + c_out F(c_in x, c_noise)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from diffusion_policy_rt.spec import Preconditioning

Network = Callable[..., np.ndarray]
"""(x float32 [H, A], c_noise, cond float32 [C][, c_stop]) -> float32 [H, A]"""
STOP_FLOOR = 1e-3
"""The level that stands for zero where a network is told the level it goes to."""


class Coefficients(NamedTuple):
    """The four functions of sigma, each of sigma's shape."""

    c_skip: np.ndarray
    c_out: np.ndarray
    c_in: np.ndarray
    c_noise: np.ndarray


def coefficients(precond: Preconditioning, sigma: np.ndarray | float) -> Coefficients:
    """Return the coefficients at noise level sigma, float64.

    `edm`: Karras et al. 2022, table 1, with c_noise = 250 ln(sigma): a thousand times theirs, as
    in Consistency Policy, because the sinusoidal embedding expects training steps.
    `ddpm`: the network predicts the noise, so x0 = x - sigma F, or x0 = F itself; it sees the
    variance-preserving sample and the nearest training step.
    `flow`: the network predicts the velocity n - x0 at x_t = (1 - t) x0 + t n, t = sigma /
    (1 + sigma), so x0 = x_t - t F; it sees x_t and 1000 t.
    """
    sigma = np.asarray(sigma, float)
    if precond.kind == 'ddpm':
        log_levels = np.log(precond.levels)
        step = np.abs(np.log(sigma)[..., None] - log_levels).argmin(-1)
        c_skip, c_out = ((np.zeros_like(sigma), np.ones_like(sigma))
                         if precond.predicts == 'sample' else (np.ones_like(sigma), -sigma))
        return Coefficients(c_skip, c_out, (1 + sigma**2) ** -0.5,
                            step.astype(float))
    if precond.kind == 'flow':
        t = sigma / (1 + sigma)
        return Coefficients(1 - t, -t, 1 - t, 1000 * t)
    total = sigma**2 + precond.sigma_data**2
    return Coefficients(precond.sigma_data**2 / total, sigma * precond.sigma_data * total**-0.5,
                        total**-0.5, 250 * np.log(sigma))


def stop_noise(precond: Preconditioning, stop: np.ndarray | float) -> np.ndarray:
    """Return c_stop, what a two-time network sees of the level it goes to; of stop's shape."""
    return coefficients(precond, np.maximum(stop, STOP_FLOOR)).c_noise


def denoise(network: Network, precond: Preconditioning, x: np.ndarray, sigma: float,
            cond: np.ndarray, stop: float = 0.0) -> np.ndarray:
    """Return the denoised estimate of x float64 [H, A] at level sigma, float64 [H, A].

    `stop` is the level that the step goes to, for networks with `stop_time`; for them the estimate
    is where the straight line through x and the end of the jump hits level zero, so that the
    sampler's `ddim` step is the jump (CTM: Kim et al. 2024; MeanFlow: Geng et al. 2025).
    """
    c_skip, c_out, c_in, c_noise = coefficients(precond, sigma)
    told = (float(stop_noise(precond, stop)),) if precond.stop_time else ()
    output = network((c_in * x).astype(np.float32), float(c_noise), cond, *told)
    return c_skip * x + c_out * output
