"""MeanFlow (Geng et al. 2025): few steps learned from data alone, without the teacher."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from diffusion_policy_rt.runtime.precond import STOP_FLOOR
from diffusion_policy_rt.train.distill.denoiser import gaussian, like, wide


@dataclass(frozen=True)
class MeanFlowOptions:
    """What `meanflow` can be told."""

    time_mean: float = -0.4
    """Both times are drawn as sigmoid(N(mean, std))."""
    time_std: float = 1.0
    instant: float = 0.5
    """Share of the samples with r = t, where the average velocity is the flow's own."""
    to_end: float = 0.25
    """Share of the others with r = 0, as one-step sampling has it."""
    power: float = 1.0
    """The loss is divided by (|error|^2 + constant)^power."""
    constant: float = 1e-3
    sigma_max: float = 80.0
    """The level that sampling starts from."""


class MeanFlow:
    """Average velocity u(x_t, r, t) with u = v - (t - r) du/dt (eq. 6) at x_t = (1 - t) x0 + t n.

    The total derivative is a Jacobian-vector product along (v, dr = 0, dt = 1); the target is not
    differentiated. `network` is the raw F of a `flow` preconditioning with `stop_time`, which sees
    1000 t and 1000 r.
    """

    critic: nn.Module | None = None

    def __init__(self, network: nn.Module, how: MeanFlowOptions) -> None:
        self.network, self.how = network, how

    def draw_times(self, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draw (t, r) [count], r <= t, equal for a share of them."""
        how = self.how
        drawn = np.stack([rng.standard_normal(count) for _ in range(2)])
        both = 1 / (1 + np.exp(-how.time_mean - how.time_std * drawn))
        t, r = both.max(0), both.min(0)
        # sampling ends at zero, of which the network is told the floor
        r[rng.random(count) < how.to_end] = STOP_FLOOR / (1 + STOP_FLOOR)
        return t, np.where(rng.random(count) < how.instant, t, np.minimum(r, t))

    def velocity(self, x: Tensor, t: Tensor, r: Tensor, cond: Tensor) -> Tensor:
        """Return the average velocity from t to r, [B, H, A]."""
        return self.network(x, 1000 * t, cond, 1000 * r)

    def target(self, x: Tensor, v: Tensor, t: Tensor, r: Tensor,
               cond: Tensor) -> tuple[Tensor, Tensor]:
        """Return the average velocity, differentiable in the weights, and what it should be."""
        u, change = torch.func.jvp(  # type: ignore[misc]
            lambda a, b: self.velocity(a, b, r, cond), (x, t), (v, torch.ones_like(t)))
        return u, (v - wide(t - r) * change).detach()

    def student_loss(self, x0: Tensor, cond: Tensor, rng: np.random.Generator) -> Tensor:
        """Return the adaptively weighted squared error."""
        times = self.draw_times(len(x0), rng)
        t, r = like(x0, times[0]), like(x0, times[1])
        noise = gaussian(x0, rng)
        u, wanted = self.target((1 - wide(t)) * x0 + wide(t) * noise, noise - x0, t, r, cond)
        error = (u - wanted).square().flatten(1).mean(1)
        return (error / (error.detach() + self.how.constant) ** self.how.power).mean()
