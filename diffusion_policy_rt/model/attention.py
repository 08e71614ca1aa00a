"""Attention between the positions of one sample."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017) of x [B, T, W] to a memory [B, S, W].

    Four linear layers and two products, written out: a layer of its own is what the exporter
    rewrites and the quantizer chooses by, and MeanFlow's loss differentiates forward, which the
    fused kernels cannot. `separated` brings weights of torch's own into this form.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f'width {width} is not divisible by {heads} heads')
        self.heads, self.scale = heads, 1 / math.sqrt(width // heads)
        self.query, self.key, self.value, self.out_proj = (
            nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return [B, T, W]; `mask` [T, S] is added to the scores: -inf where nothing is seen."""
        return self.attend(x, self.key(memory), self.value(memory), mask)

    def attend(self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """Return [B, T, W] for what the memory was made to, keys and values [B, S, W]."""
        query, key, value = (made.unflatten(-1, (self.heads, -1)).transpose(1, 2)
                             for made in (self.query(x), keys, values))
        scores = query @ key.transpose(-1, -2) * self.scale
        if mask is not None:
            scores = scores + mask
        return self.out_proj((scores.softmax(-1) @ value).transpose(1, 2).flatten(2))


def separated(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights in which joined projections of `torch.nn.MultiheadAttention` are three."""
    made: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        head, joined, kind = name.partition('in_proj_')
        parts = zip(('query', 'key', 'value'), tensor.chunk(3)) if joined else ()
        made |= {f'{head}{part}.{kind}': of for part, of in parts} or {name: tensor}
    return made


def causal_mask(positions: int, memory: int, lead: int = 0) -> Tensor:
    """Return a mask [positions, memory]: position t sees memory up to t + lead."""
    seen = torch.arange(memory)[None, :] <= torch.arange(positions)[:, None] + lead
    return torch.zeros(positions, memory).masked_fill(~seen, -torch.inf)
