"""Reverse-KL score distillation: One-Step Diffusion Policy (Wang et al. 2025), and more steps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from diffusion_policy_rt.train.distill.denoiser import Denoiser, gaussian, like, wide


@dataclass(frozen=True)
class OneDPOptions:
    """What `onedp-s` and `onedp-d` can be told."""

    levels: tuple[float, ...] = (2.5,)
    """Falling levels that the generator is called at. The first (the paper's t_init for EDM
    teachers) starts from noise alone; the others, for more steps, from data noised to them."""
    first_share: float = 0.5
    """Share of the samples that start at the first level, where there are more."""
    sigma_mean: float = -1.2
    """Levels at which the scores are compared: mean of their logarithm (Karras et al. 2022)."""
    sigma_std: float = 1.2
    critic_rate: float = 20.0
    """The score network's learning rate over the generator's."""
    student_every: int = 2
    """One of so many steps moves the generator, the others the score network."""

    def __post_init__(self) -> None:
        object.__setattr__(self, 'levels', tuple(float(s) for s in self.levels))
        if not self.levels or sorted(self.levels, reverse=True) != list(self.levels):
            raise ValueError('levels must fall')


class OneDP:
    """The generator's gradient is w (score of its samples - the teacher's score), w = sigma^2.

    Scores are (D - x) / sigma^2, so the gradient is D_critic - D_teacher. OneDP-S learns the
    critic on the generator's samples; OneDP-D, which has no noise and no critic, takes the sample
    itself for the critic's estimate (the score of a point, -noise / sigma) and loses modes.
    With several levels one network serves several steps, sampled by `renoise`: the paper has one.
    The critic is then told the level that a sample was generated from. Were it not, only the
    samples of all levels together would come to match the teacher's, and each by itself would not.
    """

    def __init__(self, student: Denoiser, teacher: Denoiser, critic: Denoiser | None,
                 critic_module: nn.Module | None, sigma_data: float, how: OneDPOptions) -> None:
        self.student, self.teacher, self.estimate = student, teacher, critic
        self.critic: nn.Module | None = critic_module
        self.how, self.sigma_data = how, sigma_data

    def generate(self, x0: Tensor, cond: Tensor,
                 rng: np.random.Generator) -> tuple[Tensor, np.ndarray]:
        """Return the generator's chunks [B, H, A] and the levels [B] that they started from.

        Without a critic the generator is given zeros, not noise.
        """
        levels, count = np.array(self.how.levels), len(x0)
        if self.estimate is None:
            sigma = np.full(count, levels[0])
            return self.student(0 * x0, sigma, cond), sigma
        index = rng.integers(1, max(2, len(levels)), size=count)
        first = (rng.random(count) < self.how.first_share) | (len(levels) == 1)
        sigma = levels[np.where(first, 0, index)]
        scale = np.where(first, np.hypot(sigma, self.sigma_data), sigma)
        x = wide(like(x0, ~first)) * x0 + wide(like(x0, scale)) * gaussian(x0, rng)
        return self.student(x, sigma, cond), sigma

    def perturb(self, made: Tensor, rng: np.random.Generator) -> tuple[Tensor, np.ndarray]:
        """Noise chunks to log-normal levels; return them and the levels [B]."""
        sigma = np.exp(self.how.sigma_mean + self.how.sigma_std
                       * rng.standard_normal(len(made)))
        return made + wide(like(made, sigma)) * gaussian(made, rng), sigma

    def student_loss(self, x0: Tensor, cond: Tensor, rng: np.random.Generator) -> Tensor:
        """Return a value whose gradient is the paper's, on data x0 [B, H, A]."""
        made, start = self.generate(x0, cond, rng)
        with torch.no_grad():
            x, sigma = self.perturb(made, rng)
            own = made if self.estimate is None else self.estimate(x, sigma, cond, start)
            target = made - (own - self.teacher(x, sigma, cond))
        return (made - target).square().mean() / 2

    def critic_loss(self, x0: Tensor, cond: Tensor, rng: np.random.Generator) -> Tensor:
        """Denoising score matching of the critic on the generator's chunks (EDM's weight)."""
        assert self.estimate is not None
        data = self.sigma_data
        with torch.no_grad():
            made, start = self.generate(x0, cond, rng)
            x, sigma = self.perturb(made, rng)
        weight = wide(like(x, (sigma**2 + data**2) / (sigma * data) ** 2))
        return (weight * (self.estimate(x, sigma, cond, start) - made).square()).mean()
