"""A diffusion transformer with adaptive norm (adaLN-Zero; Peebles & Xie 2023) over actions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from diffusion_policy_rt.model.attention import Attention
from diffusion_policy_rt.model.blocks import Keep, compute, step_encoder, stop_encoder


class DiTBlock(nn.Module):
    """Self-attention and two linear layers, each scaled, shifted and gated by the features.

    The gates start at zero, so a fresh block is the identity.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.modulation = modulation(width, 6)
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False)
        self.attn = Attention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU('tanh'),
                                 nn.Linear(4 * width, width))

    def forward(self, h: Tensor, features: Tensor, keep: Keep = compute) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = (
            self.modulation(features)[:, None].chunk(6, dim=-1))
        normed = self.norm1(h) * (1 + scale1) + shift1
        h = h + keep(lambda: gate1 * self.attn(normed, normed))
        return h + keep(lambda: gate2 * self.mlp(self.norm2(h) * (1 + scale2) + shift2))


class DiTDenoiser(nn.Module):
    """Raw network F: x [B, H, A], c_noise [B], cond [B, C] -> [B, H, A].

    The actions are the tokens; level and condition enter through every norm. With `stop_time` it
    takes c_stop [B] too, of the level that the step goes to.
    """

    def __init__(self, action_dim: int, horizon: int, cond_dim: int, width: int = 256,
                 layers: int = 8, heads: int = 4, stop_time: bool = False,
                 step_frequency: float = 1.0) -> None:
        super().__init__()
        self.step_encoder = step_encoder(width, step_frequency)
        self.stop_encoder = stop_encoder(width, step_frequency) if stop_time else None
        self.cond = nn.Sequential(nn.Linear(cond_dim, width), nn.SiLU(), nn.Linear(width, width))
        self.inputs = nn.Linear(action_dim, width)
        self.positions = nn.Parameter(0.02 * torch.randn(1, horizon, width))
        self.blocks = nn.ModuleList(DiTBlock(width, heads) for _ in range(layers))
        self.modulation = modulation(width, 2)
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.outputs = nn.Linear(width, action_dim)
        for parameter in self.outputs.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, c_noise: Tensor, cond: Tensor,
                c_stop: Tensor | None = None) -> Tensor:
        return self.through(x, self.level(c_noise, c_stop) + self.cond(cond))

    def level(self, c_noise: Tensor, c_stop: Tensor | None = None) -> Tensor:
        """Embed the levels, [B, W]."""
        level = self.step_encoder(c_noise)
        return level if self.stop_encoder is None else level + self.stop_encoder(c_stop)

    def through(self, x: Tensor, features: Tensor, keep: Keep = compute) -> Tensor:
        """Return the output for the features [B, W] of level and condition."""
        h = self.inputs(x) + self.positions
        for block in self.blocks:
            h = block(h, features, keep)
        shift, scale = self.modulation(features)[:, None].chunk(2, dim=-1)
        return self.outputs(self.norm(h) * (1 + scale) + shift)


def modulation(width: int, parts: int) -> nn.Sequential:
    """Return what makes scales, shifts and gates of the features, zero at first."""
    made = nn.Linear(width, parts * width)
    for parameter in made.parameters():
        nn.init.zeros_(parameter)
    return nn.Sequential(nn.SiLU(), made)
