"""Stored weights as torch tensors: of a bundle, or of a checkpoint that modelopt exported."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from diffusion_policy_rt.engines.weights import (
    PRODUCTS, SCALE, ZERO, check_scales, read_header, scales)
from diffusion_policy_rt.errors import BundleError
from diffusion_policy_rt.model.lower import is_product, raise_weights


def read_weights(path: Path, module: nn.Module) -> dict[str, Tensor]:
    """Return the file's weights in float32 and in the forms that `module`'s layers have.

    Quantized tensors are multiplied by their scales. BundleError for a damaged file or a scale
    that does not fit its tensor.
    """
    header, metadata = read_header(path)
    check_scales(path, header)
    try:
        with safe_open(path, 'pt') as file:
            tensors = {name: file.get_tensor(name) for name in header}
    except SafetensorError as error:
        raise BundleError(f'{path}: {error}; copy it again') from error
    products = metadata.get('layout') == PRODUCTS
    layers = dict(module.named_modules())
    names = set(module.state_dict())
    quantized = scales(header)
    weights = {name: tensors[name].float() for name in tensors if name in names}
    for name in quantized.keys() & names:
        layer = layers[name.rpartition('.')[0]]
        axis = _channels(layer, products, tensors[name].ndim)
        weights[name] = _dequantize(path, name, tensors, axis)
    return raise_weights(module, weights) if products else weights


def _channels(layer: nn.Module, products: bool, ndim: int) -> int:
    """Return which dimension of the stored tensor counts the layer's outputs."""
    if ndim < 2:
        return 0
    if products and is_product(layer):
        return 1
    return 1 if isinstance(layer, nn.ConvTranspose1d) else 0


def _dequantize(path: Path, name: str, tensors: Mapping[str, Tensor], axis: int) -> Tensor:
    value, scale = tensors[name].float(), tensors[name + SCALE].float()
    zero = tensors.get(name + ZERO)
    shape = [1] * value.ndim
    shape[axis] = -1
    if scale.numel() not in (1, value.shape[axis]):
        raise BundleError(f'{path}: {name}{SCALE} has {scale.numel()} values for '
                          f'{value.shape[axis]} channels; quantize again')
    if zero is not None:
        value = value - zero.float().reshape(shape if zero.numel() > 1 else [1] * value.ndim)
    value = value * scale.reshape(shape if scale.numel() > 1 else [1] * value.ndim)
    before = tensors.get(name.removesuffix('weight') + 'pre_quant_scale')
    if before is not None:  # SmoothQuant: the input was divided by it
        value = value * before.float().reshape(1, -1, *[1] * (value.ndim - 2))
    return value
