"""Parts of the transformers: what their tokens attend to, or what scales their norms."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from diffusion_policy_rt.model.blocks import Keep
from diffusion_policy_rt.model.dit import DiTDenoiser
from diffusion_policy_rt.model.split_parts import Part, Step
from diffusion_policy_rt.model.transformer import DecoderLayer, TransformerDenoiser


def memory(net: TransformerDenoiser, tokens: Tensor, positions: Tensor) -> Tensor:
    """Return keys and values of some of the memory's tokens in all layers: [B, S, 2 W layers]."""
    made = net.encoder(tokens + positions)
    across = [cast(DecoderLayer, layer).multihead_attn
              for layer in net.decoder['layers'].children()]
    return torch.cat([project(made) for attention in across
                      for project in (attention.key, attention.value)], dim=-1)


class MemoryLevel(Part):
    """Keys and values of the level's token, [B, 1, 2 W layers]."""

    def forward(self, c_noise: Tensor, c_stop: Tensor | None = None) -> Tensor:
        return memory(self.net, self.net.told(c_noise, c_stop), self.net.cond_pos_emb[:, :1])


class MemoryObserved(Part):
    """Keys and values of the condition's tokens, [B, S - 1, 2 W layers]."""

    def forward(self, cond: Tensor) -> Tensor:
        return memory(self.net, self.net.observed(cond), self.net.cond_pos_emb[:, 1:])


class TransformerStep(Step):
    """The decoder; self-attention, attention to the memory and the rest are a branch each."""

    def __init__(self, net: TransformerDenoiser) -> None:
        super().__init__(net)
        self.layers = len(list(net.decoder['layers'].children()))
        self.branches = 3 * self.layers

    def keeping(self, keep: Keep, x: Tensor, level: Tensor, observed: Tensor) -> Tensor:
        net = self.net
        made = torch.cat((level, observed), dim=1).chunk(2 * self.layers, dim=-1)
        h = net.input_emb(x) + net.pos_emb
        for layer, keys, values in zip(net.decoder['layers'], made[::2], made[1::2]):
            h = layer.attended(h, keys, values, net.mask, net.memory_mask, keep)
        return net.head(net.ln_f(h))


class Embedding(Part):
    """The level's embedding [B, W]; only its sum with the condition's enters the norms."""

    def forward(self, c_noise: Tensor, c_stop: Tensor | None = None) -> Tensor:
        return self.net.level(c_noise, c_stop)


class DiTStep(Step):
    """The transformer with adaptive norm; attention and the rest are a branch each."""

    def __init__(self, net: DiTDenoiser) -> None:
        super().__init__(net)
        self.branches = 2 * len(net.blocks)

    def keeping(self, keep: Keep, x: Tensor, level: Tensor, observed: Tensor) -> Tensor:
        return self.net.through(x, level + observed, keep)
