"""The FiLM-conditioned 1-D U-Net of Diffusion Policy (Chi et al. 2023, section III-A).

Module names follow the published implementations, so that their weights map by name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from diffusion_policy_rt.model.blocks import (
    Keep, PositionNorm, compute, step_encoder, stop_encoder)


class Conv1dBlock(nn.Module):
    """Conv1d, GroupNorm, Mish: [B, C, T] -> [B, D, T]."""

    def __init__(self, inputs: int, outputs: int, kernel_size: int, groups: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv1d(inputs, outputs, kernel_size, padding=kernel_size // 2),
            PositionNorm(groups, outputs), nn.Mish())

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


class ResidualBlock(nn.Module):
    """Two conv blocks with the condition added (or scaled and added) between them."""

    def __init__(self, inputs: int, outputs: int, cond_dim: int, kernel_size: int, groups: int,
                 film_scale: bool) -> None:
        super().__init__()
        self.film_scale, self.outputs = film_scale, outputs
        self.conv1 = Conv1dBlock(inputs, outputs, kernel_size, groups)
        self.cond_encoder = nn.Sequential(
            nn.Mish(), nn.Linear(cond_dim, outputs * 2 if film_scale else outputs))
        self.conv2 = Conv1dBlock(outputs, outputs, kernel_size, groups)
        self.residual_conv = nn.Conv1d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        return self.modulated(x, self.cond_encoder(cond))

    def modulated(self, x: Tensor, film: Tensor, keep: Keep = compute) -> Tensor:
        """Return the block's output for a shift [B, D], or scale and shift [B, 2 D]."""
        return keep(lambda: self.conv2(self._film(self.conv1(x), film.unsqueeze(-1)))
                    ) + self.residual_conv(x)

    def _film(self, out: Tensor, film: Tensor) -> Tensor:
        if self.film_scale:
            return film[:, :self.outputs] * out + film[:, self.outputs:]
        return out + film


class ConditionalUnet1D(nn.Module):
    """Raw network F: x [B, H, A], c_noise [B], cond [B, C] -> [B, H, A].

    H must be divisible by 2 ** (len(down_dims) - 1). With `stop_time` it takes c_stop [B] too, of
    the level that the step goes to; `step_frequency` is the highest of the level's embedding.
    `final_groups` are the norm's of the last block where they differ.
    """

    def __init__(self, action_dim: int, horizon: int, cond_dim: int,
                 down_dims: Sequence[int] = (512, 1024, 2048), kernel_size: int = 5,
                 groups: int = 8, step_dim: int = 128, film_scale: bool = True,
                 stop_time: bool = False, step_frequency: float = 1.0,
                 final_groups: int | None = None) -> None:
        super().__init__()
        if horizon % 2 ** (len(down_dims) - 1):
            raise ValueError(f'horizon {horizon} is not divisible by {2 ** (len(down_dims) - 1)}')
        self.diffusion_step_encoder = step_encoder(step_dim, step_frequency)
        self.stop_encoder = (
            stop_encoder(step_dim, step_frequency) if stop_time else None)
        dims = [action_dim, *down_dims]
        common = (step_dim + cond_dim, kernel_size, groups, film_scale)
        last = len(down_dims) - 1
        self.down_modules = nn.ModuleList(nn.ModuleList([
            ResidualBlock(a, b, *common), ResidualBlock(b, b, *common),
            nn.Conv1d(b, b, 3, 2, 1) if i < last else nn.Identity()])
            for i, (a, b) in enumerate(zip(dims, dims[1:])))
        self.mid_modules = nn.ModuleList(
            ResidualBlock(dims[-1], dims[-1], *common) for _ in range(2))
        # the published net goes up one level less than down, with an upsampling at each
        self.up_modules = nn.ModuleList(nn.ModuleList([
            ResidualBlock(b * 2, a, *common), ResidualBlock(a, a, *common),
            nn.ConvTranspose1d(a, a, 4, 2, 1)])
            for a, b in reversed(list(zip(dims[1:], dims[2:]))))
        self.final_conv = nn.Sequential(
            Conv1dBlock(down_dims[0], down_dims[0], kernel_size, final_groups or groups),
            nn.Conv1d(down_dims[0], action_dim, 1))

    def forward(self, x: Tensor, c_noise: Tensor, cond: Tensor,
                c_stop: Tensor | None = None) -> Tensor:
        features = torch.cat((self.level(c_noise, c_stop), cond), dim=-1)
        return self.through(x, lambda block, h: block(h, features))

    def level(self, c_noise: Tensor, c_stop: Tensor | None = None) -> Tensor:
        """Embed the levels, [B, step_dim]."""
        level = self.diffusion_step_encoder(c_noise)
        return level if self.stop_encoder is None else level + self.stop_encoder(c_stop)

    def residual_blocks(self) -> list[ResidualBlock]:
        """Return the blocks in the order of `through`."""
        return [block for modules in (self.down_modules, self.mid_modules, self.up_modules)
                for block in modules.modules() if isinstance(block, ResidualBlock)]

    def through(self, x: Tensor, apply: Callable[[nn.Module, Tensor], Tensor]) -> Tensor:
        """Return the output [B, H, A]; `apply` gives that of a block for its input."""
        x = x.transpose(1, 2)
        skips = []
        for level in self.down_modules:
            first, second, down = cast(nn.ModuleList, level)
            x = apply(second, apply(first, x))
            skips.append(x)
            x = down(x)
        for block in self.mid_modules:
            x = apply(block, x)
        for level in self.up_modules:
            first, second, up = cast(nn.ModuleList, level)
            x = torch.cat((x, skips.pop()), dim=1)
            x = up(apply(second, apply(first, x)))
        return self.final_conv(x).transpose(1, 2)
