"""Clean-prefix conditioning in training: random prefixes, and estimates that keep them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from diffusion_policy_rt.runtime.prefix import PrefixLayout

NONE_SHARE = 0.75
"""Share of the samples without a prefix: what runs without latency must not be learned less."""


def draw_lengths(layout: PrefixLayout, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw how many actions are given, int64 [count]: none for a share, else 1..most evenly."""
    if not layout.most:
        return np.zeros(count, np.int64)
    lengths = rng.integers(1, layout.most + 1, size=count)
    return np.where(rng.random(count) < NONE_SHARE, 0, lengths)


def with_prefix(layout: PrefixLayout, observed: Tensor, chunks: Tensor,
                lengths: np.ndarray) -> Tensor:
    """Append the first `lengths` [B] committed actions of chunks [B, H, A]: [B, C]."""
    if not layout.most:
        return observed
    held = torch.from_numpy(np.arange(layout.most) < lengths[:, None]).to(observed)[..., None]
    values = chunks[:, layout.first:layout.first + layout.most] * held
    return torch.cat([observed, torch.cat([values, held], -1).flatten(1)], -1)


def without_prefix(layout: PrefixLayout, observed: Tensor) -> Tensor:
    """Append that nothing is committed: [B, C]."""
    return torch.cat([observed, observed.new_zeros(len(observed), layout.width)], -1)


def split(layout: PrefixLayout, cond: Tensor) -> tuple[Tensor, Tensor]:
    """Return the tail's values [B, most, A] and masks [B, most, 1]."""
    tail = cond[:, cond.shape[1] - layout.width:].unflatten(1, (layout.most, -1))
    return tail[..., :-1], tail[..., -1:]


def keep_prefix(layout: PrefixLayout, estimate: Tensor, cond: Tensor) -> Tensor:
    """Put the committed actions that `cond` [B, C] tells in their place in estimates [B, H, A]."""
    if not layout.most:
        return estimate
    values, held = split(layout, cond)
    first, after = layout.first, layout.first + layout.most
    block = torch.where(held > 0.5, values, estimate[:, first:after])
    return torch.cat([estimate[:, :first], block, estimate[:, after:]], 1)


def free_actions(layout: PrefixLayout, chunks: Tensor, cond: Tensor) -> Tensor:
    """Return 1 for the actions that a loss is on, 0 for those committed: [B, H, 1]."""
    free = torch.ones_like(chunks[..., :1])
    if layout.most:
        free[:, layout.first:layout.first + layout.most] -= split(layout, cond)[1]
    return free
