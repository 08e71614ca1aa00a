"""What stands between matrix products, in the order and of the functions that suit the engines.

A product leaves rows [T, C]. What is multiplied and added per channel lies along them then, in
pieces that are long enough to be vectorised; along [C, T] the pieces are of 4 to 16 numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import instance_norm


class VectorMish(nn.Module):
    """Mish, x tanh(ln(1 + e^x)), of functions that engines have vectorised; softplus is none."""

    def forward(self, x: Tensor) -> Tensor:
        return -x * torch.tanh(torch.log(torch.sigmoid(-x)))


class RowNorm(nn.Module):
    """Group norm of [B, C, T] by rows [T, C]; only the groups are moved, each row of one whole.

    The names of weight and bias are the norm's.
    """

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.weight, self.bias = norm.weight, norm.bias
        self.groups, self.eps = norm.num_groups, norm.eps

    def forward(self, x: Tensor) -> Tensor:
        blocks = x.transpose(1, 2).unflatten(2, (self.groups, -1)).transpose(1, 2)  # [B, G, T, c]
        rows = instance_norm(blocks, eps=self.eps).transpose(1, 2).flatten(2)
        return (rows * self.weight + self.bias).transpose(1, 2)
