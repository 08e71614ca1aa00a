"""In which type each layer really ran: read from what the engine did, not from the request."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from diffusion_policy_rt.engines.bundle import Bundle
from diffusion_policy_rt.engines.weights import Stored, scales
from diffusion_policy_rt.errors import EngineError
from diffusion_policy_rt.runtime.ports import Layer

INT8_OPS = {'DynamicQuantizeMatMul', 'MatMulInteger', 'MatMulIntegerToFloat', 'MatMulNBits',
            'ConvInteger', 'QLinearConv', 'QLinearMatMul', 'QGemm'}
"""ONNX Runtime's operators whose weights are read, and multiplied, as 8-bit integers."""
FLOAT_OPS = {'MatMul', 'Gemm', 'Conv', 'FusedMatMul', 'FusedGemm', 'FusedConv'}
"""Its products of floating-point numbers, of the type of their first input."""
GPU_TYPES = {'fp8': (8, 9), 'nvfp4': (10, 0)}
"""Types that only GPUs multiply, and from which compute capability on."""
NAMES = {'float': 'float32', 'double': 'float64'}


def read_profile(path: Path) -> list[Layer]:
    """Return the products that an ONNX Runtime profile saw, each once, in order of execution."""
    layers: dict[str, Layer] = {}
    for event in json.loads(path.read_text()):
        args = event.get('args', {})
        op = args.get('op_name')
        if op in INT8_OPS | FLOAT_OPS and event['name'].endswith('_kernel_time'):
            name = layer_name(event['name'].removesuffix('_kernel_time'))
            layers[name] = Layer(name, op, _dtype(op, args.get('input_type_shape') or []))
    return list(layers.values())


def _dtype(op: str, inputs: list[Mapping]) -> str:
    if op in INT8_OPS:
        return 'int8'
    given = next(iter(inputs[0])) if inputs else 'unknown'
    return NAMES.get(given, given)


def layer_name(node: str) -> str:
    """Return the layer that a node of an optimised graph stems from.

    `train.export` calls products by their weights; optimisers and quantizers append to that.
    """
    path = node.split('/', 1)[0] or node.strip('/')
    return re.sub(r'(_quant|_token_\d+)+$', '', path)


def check_types(bundle: Bundle, capability: tuple[int, int] | None = None) -> None:
    """Raise EngineError for a type that a GPU of this capability, or a CPU, does not multiply."""
    for part, dtype in bundle.dtypes.items():
        needed = GPU_TYPES.get(str(dtype))
        if needed is None or capability is not None and capability >= needed:
            continue
        here = 'a CPU' if capability is None else 'a GPU of {}.{}'.format(*capability)
        raise EngineError(
            f'{bundle.folder}: the {part} is in {dtype}, which {here} does not multiply; it needs '
            'engine tensorrt on a GPU of compute capability {}.{}, or '.format(*needed)
            + 'engine torch, which multiplies by the scales and computes in float32')


def summary(layers: Iterable[Layer]) -> str:
    """Return the one type of all layers, or each with its number: `int8 38, float32 3`."""
    counts = Counter(layer.dtype for layer in layers)
    if len(counts) == 1:
        return next(iter(counts))
    return ', '.join(f'{dtype} {count}' for dtype, count in counts.most_common())


def check_executed(part: str, layers: Iterable[Layer], stored: Mapping[str, Stored]) -> None:
    """Raise EngineError for a layer that is stored in 8 bits and was executed in another type.

    `stored` are the tensors of the part, by their names within it. A layer that is split is
    several products of one name.
    """
    wanted = {name.removesuffix('.weight') for name in scales(stored) if name.endswith('.weight')}
    ran: dict[str, set[str]] = {}
    for layer in layers:
        ran.setdefault(layer.name, set()).add(layer.dtype)
    exact = sum(ran.get(name) == {'int8'} for name in wanted)
    if exact < len(wanted):
        others = sorted(f'{name} in {", ".join(sorted(ran[name]))}' for name in wanted & ran.keys()
                        if ran[name] != {'int8'})
        raise EngineError(f'{part}: {len(wanted)} layers are stored in 8 bits and {exact} were '
                          f'executed so ({", ".join(others) or "the others are gone"}); '
                          'quantize the bundle on this machine')
