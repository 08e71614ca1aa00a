"""Few-step sampling: from noise to a chunk in as many network calls as the schedule has levels."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from diffusion_policy_rt.spec import Schedule

Denoise = Callable[[np.ndarray, float, float], np.ndarray]
"""(x float64 [..., H, A], sigma, sigma_next) -> denoised estimate float64 [..., H, A]"""


def estimates(denoise: Denoise, schedule: Schedule, noise: np.ndarray, sigma_data: float,
              clip: float | None, rng: np.random.Generator,
              guess: np.ndarray | None = None) -> Iterator[np.ndarray]:
    """Yield the denoised estimate of each network call, float64 [..., H, A]; each is usable.

    `noise` is standard normal [..., H, A]; it is scaled to the deviation that noisy data have at
    the first level, so that one step from any level is what the network was trained on. With a
    `guess` of the result [..., H, A], `noise` is added to it at the first of the schedule's
    `warm_sigmas`, or the share `warm_noise` of it, and those are the levels. Between levels

        ddim       x_next = x0 + (s_next / s) (x - x0)          Song et al. 2021, eta = 0
        ddim_unclipped   likewise, but x0 in the brackets is that of before the clip
        ancestral  x_next = x0 + (s_next / s)^2 (x - x0)        Ho et al. 2020, eq. 7, for x0 + s n
                            + g s_next sqrt(1 - (s_next / s)^2) n
        renoise    x_next = x0 + g s_next n                     Song et al. 2023, alg. 1
        point      ddim, but from zeros: a student that was given no noise

    where g is the schedule's `noise_scale`: 1, or less for fewer stray samples in few steps.
    """
    sigmas = schedule.sigmas if guess is None else schedule.warm_sigmas
    x = _first(schedule, np.asarray(noise, float), sigma_data, guess)
    for sigma, sigma_next in zip(sigmas, (*sigmas[1:], 0.0)):
        x0 = denoise(x, sigma, sigma_next)
        x0 = np.where(np.isfinite(x0), x0, np.nan)  # or clipping would make infinity look sound
        free = x0
        if clip is not None:
            x0 = np.clip(x0, -clip, clip)
        yield x0
        if sigma_next:
            x = (x0 + sigma_next / sigma * (x - free) if schedule.kind == 'ddim_unclipped' else
                 _step(schedule, x, x0, sigma, sigma_next, rng))


def _first(schedule: Schedule, noise: np.ndarray, sigma_data: float,
           guess: np.ndarray | None) -> np.ndarray:
    if guess is not None:
        return guess + schedule.warm_noise * schedule.warm_sigmas[0] * noise
    start = 0.0 if schedule.kind == 'point' else np.hypot(schedule.sigmas[0], sigma_data)
    return start * noise


def _step(schedule: Schedule, x: np.ndarray, x0: np.ndarray, sigma: float, sigma_next: float,
          rng: np.random.Generator) -> np.ndarray:
    ratio = sigma_next / sigma
    if schedule.kind in ('ddim', 'point'):
        return x0 + ratio * (x - x0)
    fresh = schedule.noise_scale * rng.standard_normal(x.shape)
    if schedule.kind == 'renoise':
        return x0 + sigma_next * fresh
    return x0 + ratio**2 * (x - x0) + sigma_next * np.sqrt(1 - ratio**2) * fresh


def sample(denoise: Denoise, schedule: Schedule, noise: np.ndarray, sigma_data: float = 1.0,
           clip: float | None = None, rng: np.random.Generator | None = None,
           guess: np.ndarray | None = None) -> np.ndarray:
    """Return the last of `estimates`: a sample, float64 [..., H, A]."""
    rng = rng if rng is not None else np.random.default_rng(0)
    *_, last = estimates(denoise, schedule, noise, sigma_data, clip, rng, guess)
    return last
