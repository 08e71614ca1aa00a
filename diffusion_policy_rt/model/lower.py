"""Convolutions over a few positions as what they are: a gather and one matrix product.

Over 4 to 16 positions a layer costs the reading of its weights, and matrix products are what the
engines have their best kernels for, in every data type.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from diffusion_policy_rt.model.blocks import PositionNorm
from diffusion_policy_rt.model.rows import RowNorm, VectorMish

Layer = nn.Linear | nn.Conv1d | nn.ConvTranspose1d
M = TypeVar('M', bound=nn.Module)


def is_product(layer: nn.Module) -> bool:
    """Tell whether `lower` rewrites the layer: what it leaves alone is no single product."""
    if isinstance(layer, nn.Linear):
        return True
    return (isinstance(layer, (nn.Conv1d, nn.ConvTranspose1d)) and layer.groups == 1
            and layer.padding_mode == 'zeros' and not isinstance(layer.padding, str))


def to_matrix(layer: Layer, weight: Tensor) -> Tensor:
    """Return the layer's weight as the product's right side, [K * C, D], contiguous."""
    if isinstance(layer, nn.Linear):
        return weight.t().contiguous()
    taps_first = (2, 0, 1) if isinstance(layer, nn.ConvTranspose1d) else (2, 1, 0)
    return weight.permute(taps_first).flatten(0, 1).contiguous()


def from_matrix(layer: Layer, matrix: Tensor) -> Tensor:
    """Return the layer's own form of a right side [K * C, D]: the inverse of `to_matrix`."""
    if isinstance(layer, nn.Linear):
        return matrix.t().contiguous()
    taps_last = (1, 2, 0) if isinstance(layer, nn.ConvTranspose1d) else (2, 1, 0)
    return matrix.unflatten(0, (layer.kernel_size[0], -1)).permute(taps_last).contiguous()


def taps(layer: nn.Conv1d | nn.ConvTranspose1d, positions: int) -> np.ndarray:
    """Return which input each output looks at through each tap, int64 [T_out, K].

    `positions`, one past the last input, stands for none: a row of zeros.
    """
    size, stride = layer.kernel_size[0], layer.stride[0]
    padding, dilation = cast(int, layer.padding[0]), layer.dilation[0]
    reach = dilation * np.arange(size)
    if isinstance(layer, nn.ConvTranspose1d):
        last = (positions - 1) * stride - 2 * padding + reach[-1] + layer.output_padding[0]
        source, rest = np.divmod(np.arange(last + 1)[:, None] + padding - reach, stride)
        source = np.where(rest == 0, source, positions)
    else:
        last = (positions + 2 * padding - reach[-1] - 1) // stride
        source = stride * np.arange(last + 1)[:, None] - padding + reach
    return np.where((source >= 0) & (source < positions), source, positions)


class MatrixProduct(nn.Module):
    """A linear layer or a convolution [B, C, T] -> [B, D, T_out] as gather and product.

    `weight` is [K * C, D]; the names of weight and bias are the layer's.
    """

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.weight = nn.Parameter(to_matrix(layer, layer.weight.detach()))
        self.bias = layer.bias
        self._taps: Callable[[int], np.ndarray] | None = None
        if not isinstance(layer, nn.Linear):
            self._taps = functools.partial(taps, layer)

    def forward(self, x: Tensor) -> Tensor:
        if self._taps is None:
            return self._product(x)
        positions = int(x.shape[2])  # static: a graph is exported for one horizon
        return self._product(gather(x.transpose(1, 2), self._taps(positions))).transpose(1, 2)

    def _product(self, x: Tensor) -> Tensor:
        x = x @ self.weight
        return x if self.bias is None else x + self.bias


def gather(x: Tensor, index: np.ndarray) -> Tensor:
    """Lay the inputs of each output side by side: [B, T, C] by `taps` to [B, T_out, K * C]."""
    positions = int(x.shape[1])
    if np.array_equal(index, np.arange(positions)[:, None]):
        return x
    if (index == positions).any():
        x = torch.cat((x, x.new_zeros(int(x.shape[0]), 1, int(x.shape[2]))), dim=1)
    flat = torch.from_numpy(index.reshape(-1)).to(x.device)
    return x.index_select(1, flat).reshape(int(x.shape[0]), len(index), -1)


def lower(module: M) -> M:
    """Rewrite, in place, every layer that is a matrix product, norms over positions, and Mish.

    Returns the module.
    """
    for name, child in module.named_children():
        if is_product(child):
            setattr(module, name, MatrixProduct(cast(Layer, child)))
        elif isinstance(child, PositionNorm):
            setattr(module, name, RowNorm(child))
        elif isinstance(child, nn.Mish):
            setattr(module, name, VectorMish())
        else:
            lower(child)
    return module


def raise_weight(module: nn.Module, name: str, value: Tensor) -> Tensor:
    """Return a parameter of a lowered copy of `module` in the module's own form."""
    layer, _, kind = name.rpartition('.')
    owner = module.get_submodule(layer)
    return from_matrix(cast(Layer, owner), value) if (
        kind == 'weight' and is_product(owner)) else value
