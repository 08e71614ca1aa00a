"""A safetensors file without torch: what it says of itself, and its tensors one at a time.

A quantized `layer.weight` (int8, uint8 or fp8) stands beside `layer.weight_scale`, as NVIDIA
modelopt exports it, and beside `layer.weight_zero_point` where zero is stored as another value.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_policy_rt.errors import BundleError

PRODUCTS, OWN = 'products', 'own'
"""Values of the file's `layout`: linear layers and 1-D convolutions are right sides [K * C, D], or
all layers have their own forms."""
SCALE, SCALE_2, ZERO = '_scale', '_scale_2', '_zero_point'
"""SCALE_2 marks NVFP4: two 4-bit values a byte, a scale per block of `BLOCK`, and one of all."""
BLOCK = 16
INPUT_SCALES = ('input_scale', 'pre_quant_scale')
"""Scales of a layer's input, which belong to no stored tensor."""


@dataclass(frozen=True)
class Stored:
    """Where one tensor lies."""

    dtype: str
    """As the format names it: F32, F16, I8, U8, F8_E4M3, ..."""
    shape: tuple[int, ...]
    offset: int
    """From the beginning of the file, in bytes."""
    length: int


def read_header(path: Path) -> tuple[dict[str, Stored], dict[str, str]]:
    """Return the tensors by name and the file's metadata; BundleError where it is damaged."""
    try:
        with path.open('rb') as file:
            size = int.from_bytes(file.read(8), 'little')
            header: dict[str, Any] = json.loads(file.read(min(size, path.stat().st_size)))
        metadata = header.pop('__metadata__', {})
        tensors = {name: _stored(8 + size, entry) for name, entry in header.items()}
    except OSError as error:
        raise BundleError(f'cannot read {path}: {error.strerror}') from error
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        raise BundleError(f'{path} is no safetensors file, or a damaged one; copy it again'
                          ) from error
    end = max((t.offset + t.length for t in tensors.values()), default=0)
    if end > path.stat().st_size:
        raise BundleError(f'{path} is truncated: {path.stat().st_size} bytes of {end}; '
                          'copy it again')
    return tensors, metadata


def _stored(start: int, entry: Mapping) -> Stored:
    first, last = entry['data_offsets']
    return Stored(entry['dtype'], tuple(entry['shape']), start + first, last - first)


NUMPY = {'F64': '<f8', 'F32': '<f4', 'F16': '<f2', 'I64': '<i8', 'I32': '<i4', 'I16': '<i2',
         'I8': 'i1', 'U8': 'u1', 'BOOL': '?'}
"""The format's types that numpy has."""


class StoredTensors(Mapping[str, np.ndarray]):
    """The tensors of a file, each read when it is asked for: all of a large one need no memory."""

    def __init__(self, path: Path) -> None:
        self._path, self._stored = path, read_header(path)[0]

    def __getitem__(self, name: str) -> np.ndarray:
        where = self._stored[name]
        values = np.fromfile(self._path, NUMPY[where.dtype], prod(where.shape),
                             offset=where.offset)
        return values.reshape(where.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)


def scales(tensors: Mapping[str, Stored]) -> dict[str, str]:
    """Return the name of each quantized tensor's scale."""
    found = {name.removesuffix(SCALE): name for name in tensors
             if name.endswith(SCALE) and not name.endswith(INPUT_SCALES)}
    return {name: scale for name, scale in found.items() if name in tensors}


def check_scales(path: Path, tensors: Mapping[str, Stored]) -> None:
    """Raise BundleError for a scale that is neither one value nor one per output channel.

    A channel is the first dimension, or the last of a right side [K * C, D]; transposed
    convolutions have theirs second.
    """
    for name, scale in scales(tensors).items():
        count, shape = prod(tensors[scale].shape), tensors[name].shape
        fits = (BLOCK * count == 2 * prod(shape) if name + SCALE_2 in tensors
                else count == 1 or count in shape[:2] + shape[-1:])
        if not fits:
            raise BundleError(f'{path}: {scale} has shape {list(tensors[scale].shape)}, which '
                              f'does not fit {name} {list(shape)}; quantize again')


def part_of(part: str, tensors: Mapping[str, Stored]) -> dict[str, Stored]:
    """Return the tensors of `encoder_<camera>` or `denoiser`, by their names within it."""
    prefix = prefix_of(part)
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()
            if name.startswith(prefix)}


def prefix_of(part: str) -> str:
    """Return what the names of a part's tensors begin with."""
    return part.replace('encoder_', 'encoders.', 1) + '.'
