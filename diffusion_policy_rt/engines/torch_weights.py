"""Stored weights as torch tensors: of a bundle, or of a checkpoint that modelopt exported."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from diffusion_policy_rt.engines.weights import (
    BLOCK, PRODUCTS, SCALE, SCALE_2, ZERO, check_scales, read_header, scales)
from diffusion_policy_rt.errors import BundleError
from diffusion_policy_rt.model.lower import is_product, raise_weight


SMOOTH = 'pre_quant_scale'
"""SmoothQuant's factors of a layer's input."""
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""What the codes 0 to 7 of a 4-bit floating-point number stand for; 8 to 15 are negative."""


def read_weights(path: Path, module: nn.Module) -> dict[str, Tensor]:
    """Return the file's weights in float32 and in the forms that `module`'s layers have.

    Quantized tensors are multiplied by their scales. BundleError for a damaged file or a scale
    that does not fit its tensor.
    """
    return dict(each_weight(path, module))


def each_weight(path: Path, module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the names and values of `read_weights`, each read when its turn comes."""
    header, metadata = read_header(path)
    check_scales(path, header)
    products, quantized = metadata.get('layout') == PRODUCTS, scales(header)
    names = module.state_dict().keys()
    for name in [name for name in header if name in names]:
        tensors = _with_scales(path, name, header)
        value = tensors[name].float()
        if name in quantized:
            value = _multiplied(path, name, tensors, module, products)
        yield name, raise_weight(module, name, value) if products else value


def _with_scales(path: Path, name: str, header: Collection[str]) -> dict[str, Tensor]:
    """Read a tensor and what belongs to it; the file is mapped no longer than that takes."""
    beside = name.removesuffix('weight') + SMOOTH
    try:
        with safe_open(path, 'pt') as file:
            return {each: file.get_tensor(each) for each in (
                name, name + SCALE, name + SCALE_2, name + ZERO, beside) if each in header}
    except SafetensorError as error:
        raise BundleError(f'{path}: {error}; copy it again') from error


def _multiplied(path: Path, name: str, tensors: Mapping[str, Tensor], module: nn.Module,
                products: bool) -> Tensor:
    """Return a quantized tensor's values."""
    layer = module.get_submodule(name.rpartition('.')[0])
    if name + SCALE_2 in tensors:
        value = _unpack(path, name, tensors, 0 if products and is_product(layer) else -1)
    else:
        value = _dequantize(path, name, tensors, _channels(layer, products, tensors[name].ndim))
    return _unsmooth(name, value, tensors)


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
    return value * scale.reshape(shape if scale.numel() > 1 else [1] * value.ndim)


def _unpack(path: Path, name: str, tensors: Mapping[str, Tensor], axis: int) -> Tensor:
    """Return NVFP4 values whose blocks lie along `axis`."""
    packed, factors = tensors[name].long(), tensors[name + SCALE].float()
    codes = torch.stack((packed & 15, packed >> 4), -1).flatten(-2)
    value = torch.tensor([*E2M1, *(-v for v in E2M1)])[codes]
    each = (factors * tensors[name + SCALE_2].float()).repeat_interleave(BLOCK, axis)
    if each.shape != value.shape:
        raise BundleError(f'{path}: {name}{SCALE} has shape {list(factors.shape)}, which does not '
                          f'fit blocks of {BLOCK} of {list(value.shape)}; quantize again')
    return value * each


def _unsmooth(name: str, value: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
    before = tensors.get(name.removesuffix('weight') + SMOOTH)
    if before is not None:  # SmoothQuant: the input was divided by it
        value = value * before.float().reshape(1, -1, *[1] * (value.ndim - 2))
    return value


QUANT_CONFIG = 'hf_quant_config.json'
ALGORITHMS = ('FP8', 'FP8_PER_CHANNEL_PER_TOKEN', 'W8A16', 'W8A8_SQ_PER_CHANNEL', 'NVFP4',
              'NVFP4_AWQ', 'W4A16_NVFP4')
"""modelopt's names of the formats with one scale per tensor, output channel or block of 16."""


def read_checkpoint(folder: Path, module: nn.Module) -> dict[str, Tensor]:
    """Return the weights of a folder that modelopt exported, in float32.

    It holds `hf_quant_config.json` and one or more safetensors files. Raises BundleError for
    unknown formats, and for layers that are missing or unknown.
    """
    _check_algorithm(folder / QUANT_CONFIG)
    files = sorted(folder.glob('*.safetensors'))
    if not files:
        raise BundleError(f'{folder} holds no safetensors file; give the folder that modelopt '
                          'exported')
    weights: dict[str, Tensor] = {}
    for path in files:
        weights |= read_weights(path, module)
    wanted = module.state_dict()
    odd = sorted(set(wanted) - set(weights)) or sorted(
        name for name, tensor in wanted.items() if tensor.shape != weights[name].shape)
    if odd:
        raise BundleError(f'{folder} has no {odd[0]} of shape {list(wanted[odd[0]].shape)}; it '
                          'must be the checkpoint of this policy')
    return weights


def _check_algorithm(path: Path) -> None:
    try:
        said = json.loads(path.read_text())['quantization']
        layers = said.get('quantized_layers', {}).values()
        named = {said['quant_algo'], *(layer['quant_algo'] for layer in layers)}
    except OSError as error:
        raise BundleError(f'cannot read {path}: {error.strerror}; give the folder that modelopt '
                          'exported') from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise BundleError(f'{path} is damaged; export the checkpoint again') from error
    unknown = sorted(named - {*ALGORITHMS, 'MIXED_PRECISION', None})
    if unknown:
        raise BundleError(f'{path}: format {unknown[0]} is not read; use one of '
                          f'{", ".join(ALGORITHMS)}')
