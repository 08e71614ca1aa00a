"""Trajectory distillation: the student jumps along its teacher's path, from any level to any."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from diffusion_policy_rt.runtime.schedule import karras_sigmas
from diffusion_policy_rt.train.distill.denoiser import Denoiser, gaussian, jump, like, wide


@dataclass(frozen=True)
class ConsistencyOptions:
    """What `consistency` can be told."""

    bins: int = 16
    """Levels of the teacher's path above zero; a multiple of the most steps contains theirs."""
    sigma_min: float = 0.02
    """The level that the path takes for zero."""
    sigma_max: float = 10.0
    solver: str = 'heun'
    """The teacher's step between two levels: `heun` or `euler`."""
    ode_steps: int = 1
    """The teacher goes 1 to so many levels down before the average takes over; as many as there
    are bins makes it follow the whole path, so that less rests on what the student said before."""
    to_end: float = 0.5
    """Share of the samples that jump to level zero; the others jump anywhere below."""
    from_start: float = 0.25
    """Share of the samples that start at the highest level, as one-step sampling does."""
    denoising_weight: float = 1.0
    """Weight of the denoising term."""
    huber: float = 0.00054
    """Pseudo-Huber constant, times sqrt(H A) (Song & Dhariwal 2024, section 3.3)."""
    sigma_mean: float = -0.4
    sigma_std: float = 1.4

    def __post_init__(self) -> None:
        if self.bins < 2 or self.ode_steps < 1 or self.solver not in ('heun', 'euler'):
            raise ValueError('bins must be at least 2, ode_steps 1, solver heun or euler')


def pseudo_huber(a: Tensor, b: Tensor, constant: float) -> Tensor:
    """Return mean over samples of sqrt(|a - b|^2 + c^2) - c, c = constant sqrt(H A)."""
    c = constant * a[0].numel() ** 0.5
    return ((a - b).flatten(1).square().sum(1) + c**2).sqrt().mean() - c


class Consistency:
    """Consistency trajectory model loss (Kim et al. 2024) as in Consistency Policy, corrected.

    The student's jump s -> t is to meet the jump u -> t of its own moving average, begun where the
    teacher's path s -> u ends; both ends are carried to level zero by the moving average and
    compared there. The carrying of the student's end is differentiated: under `no_grad`, as in
    the published code until July 2024, this term taught the student nothing.
    """

    critic: nn.Module | None = None

    def __init__(self, student: Denoiser, average: Denoiser, teacher: Denoiser, sigma_data: float,
                 how: ConsistencyOptions) -> None:
        self.student, self.average, self.teacher = student, average, teacher
        self.how, self.sigma_data = how, sigma_data
        self.levels = karras_sigmas(how.bins + 1, how.sigma_min, how.sigma_max)
        self.levels[-1] = 0.0

    def student_loss(self, x0: Tensor, cond: Tensor, rng: np.random.Generator) -> Tensor:
        """Return the whole loss on data x0 [B, H, A]."""
        loss, weight = self.trajectory(x0, cond, rng), self.how.denoising_weight
        return loss + weight * self.denoising(x0, cond, rng) if weight else loss

    def draw_levels(self, count: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        """Draw the numbers of levels s, u, t [count]: u below s, and t at or below u."""
        last = len(self.levels) - 1
        start = rng.integers(last, size=count) * (rng.random(count) >= self.how.from_start)
        end = start + 1 + np.floor(rng.random(count) * (last - start)).astype(int)
        end[rng.random(count) < self.how.to_end] = last
        between = start + 1 + rng.integers(self.how.ode_steps, size=count)
        return start, np.minimum(between, end), end

    def trajectory(self, x0: Tensor, cond: Tensor, rng: np.random.Generator) -> Tensor:
        """Compare the student's jumps with its average's from further down the teacher's path."""
        start, between, end = self.draw_levels(len(x0), rng)
        s, u, t = self.levels[start], self.levels[between], self.levels[end]
        x = x0 + wide(like(x0, s)) * gaussian(x0, rng)
        with torch.no_grad():
            nearer = self.follow(x, start, between, cond)
            target = self.carry(self.from_to(self.average, nearer, u, t, cond), t, cond)
        reached = self.carry(jump(self.student, x, s, t, cond), t, cond)
        return pseudo_huber(reached, target, self.how.huber)

    def carry(self, x: Tensor, t: np.ndarray, cond: Tensor) -> Tensor:
        """Bring x from t to level zero by the moving average."""
        return self.from_to(self.average, x, t, 0 * t, cond)

    def from_to(self, denoiser: Denoiser, x: Tensor, s: np.ndarray, t: np.ndarray,
                cond: Tensor) -> Tensor:
        """Jump where s lies above t; elsewhere x is there already."""
        rows = np.flatnonzero(s > t)
        if len(rows):
            x = x.clone()
            x[rows] = jump(denoiser, x[rows], s[rows], t[rows], cond[rows])
        return x

    def follow(self, x: Tensor, start: np.ndarray, goal: np.ndarray, cond: Tensor) -> Tensor:
        """Follow the teacher from level number `start` to `goal` [B], one level at a time."""
        x, at = x.clone(), start.copy()
        while (at < goal).any():
            rows = np.flatnonzero(at < goal)
            x[rows] = self.teacher_step(x[rows], self.levels[at[rows]],
                                        self.levels[at[rows] + 1], cond[rows])
            at[rows] += 1
        return x

    def teacher_step(self, x: Tensor, s: np.ndarray, u: np.ndarray, cond: Tensor) -> Tensor:
        """Follow dx / d sigma = (x - D) / sigma from s to u (Karras et al. 2022, alg. 1)."""
        slope = (x - self.teacher(x, s, cond)) / wide(like(x, s))
        step = wide(like(x, u - s))
        euler = x + step * slope
        if self.how.solver == 'euler':
            return euler
        safe = np.maximum(u, self.how.sigma_min)
        second = (euler - self.teacher(euler, safe, cond)) / wide(like(x, safe))
        heun = x + step * (slope + second) / 2
        return torch.where(wide(like(x, u)) > 0, heun, euler)

    def denoising(self, x0: Tensor, cond: Tensor, rng: np.random.Generator) -> Tensor:
        """Denoising score matching of the jump of no length, with EDM's weight (eq. 8)."""
        how, data = self.how, self.sigma_data
        sigma = np.exp(how.sigma_mean + how.sigma_std * rng.standard_normal(len(x0)))
        x = x0 + wide(like(x0, sigma)) * gaussian(x0, rng)
        weight = wide(like(x0, (sigma**2 + data**2) / (sigma * data) ** 2))
        return (weight * (self.student(x, sigma, cond, sigma) - x0).square()).mean()
