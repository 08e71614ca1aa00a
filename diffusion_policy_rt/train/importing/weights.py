"""Weights of published networks in our forms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

LEFT = ('pos_grid', 'pos_x', 'pos_y', 'num_batches_tracked', '_dummy_variable', 'mask')
"""Ends of the names of what we compute ourselves or do not need."""
CONVOLUTIONS = {'1': '0', 'bn1': 'conv1', 'bn2': 'conv2'}
"""Norms of a ResNet (the second of a shortcut is a '1' too), and what they follow."""


def renamed(tensors: Mapping[str, Tensor], head: str, new: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with `head`, which `new` takes the place of."""
    return {new + name.removeprefix(head): tensor for name, tensor in tensors.items()
            if name.startswith(head) and not name.endswith(LEFT)}


def fold_norms(tensors: Mapping[str, Tensor], eps: float = 1e-5) -> dict[str, Tensor]:
    """Make each BatchNorm, as it is in use, part of the convolution before it."""
    made = dict(tensors)
    for name in tensors:
        norm, _, last = name.rpartition('.')
        if last != 'running_mean':
            continue
        mean, deviation, gain, bias = (made.pop(f'{norm}.{part}').double() for part in (
            'running_mean', 'running_var', 'weight', 'bias'))
        parent, _, which = norm.rpartition('.')
        layer = f'{parent}.{CONVOLUTIONS[which]}'
        gain = gain / torch.sqrt(deviation + eps)
        weight = made[f'{layer}.weight'].double() * gain[:, None, None, None]
        made |= {f'{layer}.weight': weight.float(), f'{layer}.bias': (bias - mean * gain).float()}
    return made


def reorder_condition(tensors: Mapping[str, Tensor], step_dim: int, instants: int,
                      columns: Sequence[int]) -> dict[str, Tensor]:
    """Make the layers that read the condition read it in another order.

    At each instant our value i is the source's value `columns[i]`. A FiLM layer of the U-Net reads
    all instants behind the level's embedding, a transformer's tokens are one each.
    """
    every = [instant * len(columns) + column for instant in range(instants) for column in columns]
    orders = {'cond_encoder.1.weight': [*range(step_dim), *(step_dim + c for c in every)],
              'cond_obs_emb.weight': [*columns]}
    made = dict(tensors)
    for name, tensor in tensors.items():
        for end, order in orders.items():
            if name.endswith(end):
                made[name] = tensor.index_select(1, torch.tensor(order))
    return made
