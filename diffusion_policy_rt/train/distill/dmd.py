"""DMD2 (Yin et al. 2024) through `modelopt.torch.fastgen`, which knows rectified flows only."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch
from torch import Tensor, nn

from diffusion_policy_rt.errors import DprtError
from diffusion_policy_rt.train.distill.denoiser import Denoiser, wide


@dataclass(frozen=True)
class DMDOptions:
    """What `dmd2` can be told."""

    sigmas: tuple[float, ...] = (10.0, 5.408, 2.757, 1.308, 0.5676, 0.22, 0.07346, 0.02)
    """Levels of the most steps, falling; fewer steps take every second, fourth, eighth of them."""
    emphasis: int = 1
    """How many times as often the first level is trained as each other."""
    sigma_mean: float = -0.4
    """Levels at which the scores are compared: mean of their logarithm."""
    sigma_std: float = 1.4
    sigma_min: float = 0.02
    sigma_max: float = 10.0
    critic_rate: float = 1.0
    """The fake score's learning rate over the student's."""
    student_every: int = 5
    """One of so many steps moves the student, the others the fake score."""

    def __post_init__(self) -> None:
        object.__setattr__(self, 'sigmas', falling(self.sigmas))


def falling(sigmas: Iterable[float]) -> tuple[float, ...]:
    """Return the noise levels of a student's steps; ValueError unless they fall."""
    levels = tuple(float(s) for s in sigmas)
    if not levels or sorted(levels, reverse=True) != list(levels):
        raise ValueError('sigmas must fall')
    return levels


def fastgen() -> ModuleType:
    """Import fastgen; DprtError where it is not installed."""
    try:
        return importlib.import_module('modelopt.torch.fastgen')
    except ImportError as error:
        raise DprtError(f'dmd2 needs {error.name or "modelopt.torch.fastgen"}; pip install '
                        '"diffusion_policy_rt[distill]"') from error


def flow_time(sigma: float) -> float:
    """Return the time t = sigma / (1 + sigma) at which a rectified flow has that noise ratio."""
    return sigma / (1 + sigma)


class RectifiedFlow(nn.Module):
    """A denoiser as fastgen calls models: the velocity (x_t - x0) / t at x_t = x / (1 + sigma)."""

    def __init__(self, denoiser: Denoiser, after: RectifiedFlow | None = None) -> None:
        """`after`: the model whose last level this one is told of, as the level gone to."""
        super().__init__()
        self.denoiser, self.level = denoiser, np.zeros(0)
        self.origin = (lambda: after.level) if after is not None else lambda: None

    def forward(self, hidden_states: Tensor, timestep: Tensor,
                encoder_hidden_states: Tensor) -> Tensor:
        t = timestep.double().clamp(1e-4, 1 - 1e-4)
        sigma = self.level = (t / (1 - t)).cpu().numpy()
        x = hidden_states / wide(1 - t).to(hidden_states)
        x0 = self.denoiser(x, sigma, encoder_hidden_states, self.origin())
        return (hidden_states - x0) / wide(t).to(hidden_states)


class DMD2:
    """Distribution matching without the GAN.

    The student's samples are moved by the difference of the teacher's and the fake score's
    estimates, divided by the teacher's mean error. A student of k levels starts at each of them,
    from data noised to it, and is sampled by `renoise` at any divisor of k. Unlike the paper's,
    the fake score is told the level that a sample was generated from (see `onedp.OneDP`).
    """

    def __init__(self, student: Denoiser, teacher: Denoiser, critic: Denoiser,
                 critic_module: nn.Module, how: DMDOptions) -> None:
        self.critic: nn.Module | None = critic_module
        self.how = how
        module, times = fastgen(), [flow_time(s) for s in how.sigmas]
        generator = RectifiedFlow(student)
        self.pipeline = module.DMDPipeline(
            generator, RectifiedFlow(teacher), RectifiedFlow(critic, after=generator),
            module.DMDConfig(
                pred_type='flow', fake_score_pred_type='flow', student_sample_type='sde',
                student_sample_steps=len(times), student_update_freq=how.student_every,
                sample_t_cfg={
                    'time_dist_type': 'logitnormal', 'p_mean': how.sigma_mean,
                    'p_std': how.sigma_std, 'min_t': flow_time(how.sigma_min),
                    'max_t': times[0],
                    't_list': [*times[:1] * how.emphasis, *times[1:], 0.0]}))

    def student_loss(self, x0: Tensor, cond: Tensor, rng: np.random.Generator) -> Tensor:
        """Return the distribution matching loss of the student."""
        return self._compute(self.pipeline.compute_student_loss, x0, cond, rng)

    def critic_loss(self, x0: Tensor, cond: Tensor, rng: np.random.Generator) -> Tensor:
        """Return the fake score's denoising loss on the student's chunks."""
        return self._compute(self.pipeline.compute_fake_score_loss, x0, cond, rng)

    def _compute(self, compute: Callable[..., dict[str, Tensor]], x0: Tensor, cond: Tensor,
                 rng: np.random.Generator) -> Tensor:
        # fastgen draws from torch's own generator
        with torch.random.fork_rng(devices=[x0.device] if x0.is_cuda else []):
            torch.manual_seed(int(rng.integers(2**63)))
            return compute(x0, torch.randn_like(x0), cond)['total']
