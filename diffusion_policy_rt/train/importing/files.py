"""A checkpoint's files, each refused in one line where it is missing or damaged."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from diffusion_policy_rt.errors import BundleError


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in the file."""
    try:
        data = json.loads(path.read_text())
        if isinstance(data, dict):
            return data
        reason = f'holds no object but {type(data).__name__}'
    except OSError as error:
        reason = f'cannot be read: {error.strerror}'
    except ValueError as error:
        reason = f'is damaged: {error}'
    raise BundleError(f'{path} {reason}; copy the checkpoint again')


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, in float32."""
    try:
        return {name: tensor.float() for name, tensor in load_file(path).items()}
    except (OSError, SafetensorError, ValueError) as error:
        raise BundleError(f'{path} cannot be read: {" ".join(str(error).split())[:200]}; copy '
                          'the checkpoint again') from error


def need(data: Mapping[str, Any], names: Iterable[str], path: Path) -> None:
    """Raise BundleError where a key is missing."""
    missing = [name for name in names if data.get(name) is None]
    if missing:
        raise BundleError(f'{path}: key {missing[0]!r} is missing; it must be the configuration '
                          'that LeRobot saved beside the weights')
