"""What a distiller's loss is put together of, and what it is."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from torch import Tensor, nn

from diffusion_policy_rt.runtime.prefix import NO_PREFIX, PrefixLayout
from diffusion_policy_rt.spec import Preconditioning
from diffusion_policy_rt.train.distill.denoiser import NetworkDenoiser


class Loss(Protocol):
    """What the student learns from, and its critic where it has one."""

    critic: nn.Module | None
    how: Any

    def student_loss(self, x0: Tensor, cond: Tensor, rng: np.random.Generator) -> Tensor:
        """Return the student's loss on data x0 [B, H, A] under cond [B, C]."""


@dataclass(frozen=True)
class Networks:
    """The raw networks of one run and their parametrisations."""

    student: nn.Module
    average: nn.Module
    """The moving average of the student."""
    precond: Preconditioning
    teacher: nn.Module
    teacher_precond: Preconditioning
    critic: nn.Module
    """The teacher with a stop encoder, for the methods that train a critic."""
    layout: PrefixLayout = NO_PREFIX
    example: tuple[Tensor, ...] = ()
    """A chunk [1, H, A] and a condition [1, C], where the networks lie."""

    def denoisers(self) -> tuple[NetworkDenoiser, ...]:
        """Return student, average, teacher and critic as denoisers."""
        own, its = self.precond, self.teacher_precond
        pairs = ((self.student, own), (self.average, own), (self.teacher, its),
                 (self.critic, dataclasses.replace(its, stop_time=True)))
        return tuple(NetworkDenoiser(*pair, self.layout) for pair in pairs)
