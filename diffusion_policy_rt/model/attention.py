"""Attention between the positions of one sample."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017) of x [B, T, W] to a memory [B, S, W].

    Four linear layers and two products, written out: a layer of its own is what the exporter
    rewrites and the quantizer chooses by, and MeanFlow's loss differentiates forward, which the
    fused kernels cannot. Weights of `torch.nn.MultiheadAttention` are taken as they are.
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

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *args: Any) -> None:
        for kind in ('weight', 'bias'):
            joined = state.pop(f'{prefix}in_proj_{kind}', None)
            if joined is not None:
                for name, part in zip(('query', 'key', 'value'), joined.chunk(3)):
                    state[f'{prefix}{name}.{kind}'] = part
        super()._load_from_state_dict(state, prefix, *args)


def causal_mask(positions: int, memory: int, lead: int = 0) -> Tensor:
    """Return a mask [positions, memory]: position t sees memory up to t + lead."""
    seen = torch.arange(memory)[None, :] <= torch.arange(positions)[:, None] + lead
    return torch.zeros(positions, memory).masked_fill(~seen, -torch.inf)
