"""Parts of the denoisers whose blocks are told level and condition by FiLM.

A block's projection is one product with [level, condition], after a Mish that acts on each value
by itself; so it is the sum of a product with either.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from diffusion_policy_rt.model.blocks import Keep
from diffusion_policy_rt.model.mlp import MLPDenoiser
from diffusion_policy_rt.model.split_parts import Part, Step
from diffusion_policy_rt.model.unet import ConditionalUnet1D, ResidualBlock


def share(layer: nn.Linear, first: int, size: int, bias: bool) -> nn.Linear:
    """Return the layer's product with its inputs from `first` on, `size` of them."""
    part = nn.Linear(size, layer.out_features, bias, device='meta')
    part.weight = nn.Parameter(layer.weight.detach()[:, first:first + size], False)
    if bias:
        part.bias = layer.bias
    return part


class Films(nn.Module):
    """What one of level and condition adds to each block's FiLM: [B, F] to [B, sum of widths]."""

    def __init__(self, projections: Sequence[nn.Linear], first: int, size: int,
                 bias: bool) -> None:
        super().__init__()
        self.activation = nn.Mish()
        self.products = nn.ModuleList(share(made, first, size, bias) for made in projections)

    def forward(self, features: Tensor) -> Tensor:
        active = self.activation(features)
        return torch.cat([product(active) for product in self.products], dim=-1)


def films(blocks: Sequence[nn.Sequential], encoder: nn.Sequential) -> tuple[Films, Films]:
    """Return the level's part of the blocks' FiLM, and the condition's with the bias.

    `blocks` are Mish and projection; `encoder` makes the level's features, which come first.
    """
    layers = [cast(nn.Linear, block[1]) for block in blocks]
    level = cast(nn.Linear, encoder[-1]).out_features
    return (Films(layers, 0, level, False),
            Films(layers, level, layers[0].in_features - level, True))


class FilmLevel(Part):
    """The level's part of every FiLM."""

    def __init__(self, net: nn.Module, made: Films) -> None:
        super().__init__(net)
        self.films = made

    def forward(self, c_noise: Tensor, c_stop: Tensor | None = None) -> Tensor:
        return self.films(self.net.level(c_noise, c_stop))


class MLPObserved(Part):
    """The embedded condition [B, W], then its part of every FiLM."""

    def __init__(self, net: MLPDenoiser, made: Films) -> None:
        super().__init__(net)
        self.films = made

    def forward(self, cond: Tensor) -> Tensor:
        observed = self.net.observed(cond)
        return torch.cat((observed, self.films(observed)), dim=-1)


class MLPStep(Step):
    """The residual layers, each of one branch."""

    def __init__(self, net: MLPDenoiser) -> None:
        super().__init__(net)
        self.branches, self.width = len(net.layers), net.inputs.out_features

    def keeping(self, keep: Keep, x: Tensor, level: Tensor, observed: Tensor) -> Tensor:
        h = self.net.inputs(x.flatten(1)) + observed[:, :self.width]
        made = (level + observed[:, self.width:]).chunk(self.branches, dim=-1)
        for layer, film in zip(self.net.layers, made):
            h = layer.modulated(h, film, keep)
        return self.net.outputs(h).unflatten(1, self.net.shape)


class UnetStep(Step):
    """The U-Net; the branches are its blocks' convolutions."""

    def __init__(self, net: ConditionalUnet1D, widths: list[int]) -> None:
        super().__init__(net)
        self.widths, self.branches = widths, len(widths)

    def keeping(self, keep: Keep, x: Tensor, level: Tensor, observed: Tensor) -> Tensor:
        made = iter((level + observed).split(self.widths, dim=-1))
        return self.net.through(
            x, lambda block, h: cast(ResidualBlock, block).modulated(h, next(made), keep))
