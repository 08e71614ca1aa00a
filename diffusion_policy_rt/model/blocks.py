"""Blocks that the denoisers share."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

Branch = Callable[[], Tensor]
"""What a residual connection adds, not computed yet."""
Keep = Callable[[Branch], Tensor]
"""Computes a branch, or gives what it was before."""


def compute(branch: Branch) -> Tensor:
    """Compute a branch: the `Keep` that keeps nothing."""
    return branch()


class PositionNorm(nn.GroupNorm):
    """Group norm of a sequence [B, C, T]."""


class SinusoidalPosEmb(nn.Module):
    """Embed a scalar per sample in sines and cosines (Vaswani et al. 2017): [B] -> [B, dim].

    Frequencies fall from `highest` to 1e-4 radians per unit.
    """

    frequencies: Tensor

    def __init__(self, dim: int, highest: float = 1.0) -> None:
        super().__init__()
        half = dim // 2
        frequencies = highest * torch.exp(
            torch.arange(half) * (-math.log(10000 * highest) / (half - 1)))
        self.register_buffer('frequencies', frequencies, persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        angles = t[:, None] * self.frequencies[None, :]
        return torch.cat((angles.sin(), angles.cos()), dim=-1)


def step_encoder(dim: int, highest: float = 1.0) -> nn.Sequential:
    """Return the published encoder of the noise level: [B] -> [B, dim]."""
    return nn.Sequential(
        SinusoidalPosEmb(dim, highest), nn.Linear(dim, dim * 4), nn.Mish(),
        nn.Linear(dim * 4, dim))


def stop_encoder(dim: int, highest: float = 1.0) -> nn.Sequential:
    """Return an encoder of the level a step goes to, added to the other's: [B] -> [B, dim].

    Its last layer is zero, so that a student that was given one starts as its teacher.
    """
    encoder = step_encoder(dim, highest)
    for parameter in encoder[-1].parameters():
        nn.init.zeros_(parameter)
    return encoder
