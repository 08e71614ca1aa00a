"""Networks as denoisers D(x, sigma, cond, stop) on batches, whatever their parametrisation."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from diffusion_policy_rt.runtime.precond import coefficients, stop_noise
from diffusion_policy_rt.runtime.prefix import NO_PREFIX, PrefixLayout
from diffusion_policy_rt.runtime.sampler import sample
from diffusion_policy_rt.spec import PolicySpec, Preconditioning
from diffusion_policy_rt.train.prefix import keep_prefix


class Denoiser(Protocol):
    """Estimates x0 from x [B, H, A] at levels sigma [B]; differentiable in x and the weights."""

    def __call__(self, x: Tensor, sigma: np.ndarray, cond: Tensor,
                 stop: np.ndarray | None = None) -> Tensor:
        """Return the estimate [B, H, A]; `stop` [B] are the levels gone to (default zero)."""


class NetworkDenoiser:
    """A raw network F as D; the batched form of `runtime.precond.denoise`.

    Committed actions stand in the estimate as the condition tells them, as when running, so no
    loss on estimates is about them.
    """

    def __init__(self, network: nn.Module, precond: Preconditioning,
                 layout: PrefixLayout = NO_PREFIX) -> None:
        self.network, self.precond, self.layout = network, precond, layout

    def __call__(self, x: Tensor, sigma: np.ndarray, cond: Tensor,
                 stop: np.ndarray | None = None) -> Tensor:
        c_skip, c_out, c_in, c_noise = (like(x, c) for c in coefficients(self.precond, sigma))
        told = []
        if self.precond.stop_time:
            told = [like(x, stop_noise(self.precond, 0 * sigma if stop is None else stop))]
        output = self.network(wide(c_in) * x, c_noise, cond, *told)
        return keep_prefix(self.layout, wide(c_skip) * x + wide(c_out) * output, cond)


def like(x: Tensor, values: np.ndarray) -> Tensor:
    """Return values [B] as a tensor of x's type and device."""
    return torch.from_numpy(np.asarray(values, np.float32)).to(x)


def wide(values: Tensor) -> Tensor:
    """Return [B] as [B, 1, 1]."""
    return values[:, None, None]


def gaussian(x: Tensor, rng: np.random.Generator) -> Tensor:
    """Draw standard normal noise of x's shape."""
    return torch.from_numpy(rng.standard_normal(tuple(x.shape), np.float32)).to(x)


def jump(denoiser: Denoiser, x: Tensor, sigma: np.ndarray, stop: np.ndarray,
         cond: Tensor) -> Tensor:
    """Go from sigma to stop <= sigma along the line to the estimate: the sampler's `ddim` step.

    G(x, s, t) = (t / s) x + (1 - t / s) g(x, s, t), Kim et al. 2024, section 3.
    """
    ratio = wide(like(x, stop / sigma))
    return ratio * x + (1 - ratio) * denoiser(x, sigma, cond, stop)


@torch.no_grad()
def rollout(denoiser: Denoiser, spec: PolicySpec, steps: int, noise: np.ndarray,
            cond: Tensor, rng: np.random.Generator | None = None) -> np.ndarray:
    """Sample chunks by the runtime's own sampler: [B, H, A] from noise [B, H, A], cond [B, C].

    `rng` draws the noise between steps (default: seed 0).
    """
    def denoise(x: np.ndarray, sigma: float, stop: float) -> np.ndarray:
        level = np.full(len(x), sigma)
        estimate = denoiser(torch.from_numpy(x).to(cond), level, cond, np.full(len(x), stop))
        return estimate.double().cpu().numpy()

    return sample(denoise, spec.schedule(steps), noise, spec.precond.sigma_data, spec.clip, rng)
