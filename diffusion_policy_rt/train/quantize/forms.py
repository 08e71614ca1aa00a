"""The 8-bit forms of a graph, made by ONNX Runtime's own quantizers where it has one."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static)

from diffusion_policy_rt.engines.cpu import saturates
from diffusion_policy_rt.train.outline import array, save_graph

Feed = Mapping[str, np.ndarray]
PRODUCTS = ('MatMul', 'Conv')


@dataclass(frozen=True)
class Form:
    """How the products of one graph are stored and executed."""

    kind: str
    """`fp32`; `dynamic`: ranges of activations found on the fly; `static`: ranges calibrated;
    `weight-only`: activations stay floating-point in the graph."""
    per_channel: bool = True
    """Whether each output channel has a scale of its own, or the whole weight one."""
    weights: str = 'int8'
    """`int8`, `uint8`, or `int7`: int8 of which one bit stays free."""

    @property
    def dtype(self) -> str:
        """The name that manifests and tables give it: `fp32`, `int8-dynamic`, ..."""
        return self.kind if self.kind == 'fp32' else f'int8-{self.kind}'

    def __str__(self) -> str:
        if self.kind == 'fp32':
            return self.kind
        return f'{self.dtype} {self.weights} per {"channel" if self.per_channel else "tensor"}'


FP32 = Form('fp32')


def candidates(part: str) -> list[Form]:
    """Return the forms worth measuring for a part on this machine.

    A denoiser is bound by reading its weights, an encoder by arithmetic; where sums of products
    saturate (`engines.cpu`) only forms are offered that cannot: unsigned weights of one scale, or
    signed ones of 7 bits.
    """
    safe = 'int7' if saturates() else 'int8'
    if part != 'denoiser':
        return [FP32, Form('static', True, safe), Form('static', False, safe)]
    unsigned = Form('dynamic', False, 'uint8')
    return [FP32, Form('dynamic', True, safe), unsigned if saturates() else Form(
        'dynamic', False), Form('weight-only'), Form('static', True, safe)]


def named(kind: str) -> Form:
    """Return this machine's form of a kind."""
    return Form(kind, True, 'int7' if saturates() and kind != 'weight-only' else 'int8')


def layers(graph: onnx.ModelProto) -> dict[str, int]:
    """Return the number of weights of each product that can be quantized, by its name."""
    sizes = {i.name: int(np.prod(i.dims)) for i in graph.graph.initializer}
    return {node.name: sizes[node.input[1]] for node in graph.graph.node
            if node.op_type in PRODUCTS and node.input[1] in sizes}


class Reader(CalibrationDataReader):
    """Hands recorded inputs to ONNX Runtime's calibration."""

    def __init__(self, feeds: Collection[Feed]) -> None:
        self._left: Iterator[Feed] = iter(feeds)

    def get_next(self) -> Feed | None:
        """Return the next inputs by name, or None at the end."""
        return next(self._left, None)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep ONNX Runtime's advice about its own preprocessing off the terminal."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


def quantize(graph: onnx.ModelProto, form: Form, feeds: Collection[Feed],
             keep: Collection[str] = ()) -> onnx.ModelProto:
    """Return the graph in a form, the layers called `keep` as they are.

    `feeds` are inputs to calibrate on, for `static`.
    """
    if form.kind == 'fp32':
        return graph
    chosen = [name for name in layers(graph) if name not in keep]
    if not chosen:
        return graph
    if form.kind == 'weight-only':
        return weight_only(graph, chosen)
    options: dict[str, Any] = {
        'per_channel': form.per_channel, 'reduce_range': form.weights == 'int7',
        'weight_type': QuantType.QUInt8 if form.weights == 'uint8' else QuantType.QInt8,
        'nodes_to_quantize': chosen, 'op_types_to_quantize': list(PRODUCTS),
        'use_external_data_format': True}  # or it could not be written above 2 GB
    with tempfile.TemporaryDirectory() as folder, quiet():
        path, made = Path(folder) / 'graph.onnx', Path(folder) / 'quantized.onnx'
        save_graph(graph, path)
        if form.kind == 'dynamic':
            quantize_dynamic(path, made, **options)
        else:
            quantize_static(path, made, Reader(feeds), quant_format=QuantFormat.QDQ,
                            activation_type=QuantType.QUInt8, **options)
        return onnx.load(str(made))


def weight_only(graph: onnx.ModelProto, chosen: Collection[str]) -> onnx.ModelProto:
    """Store weights in 8 bits with a scale per output; the engine chooses how to multiply."""
    made = onnx.ModelProto()
    made.CopyFrom(graph)
    held = {i.name: i for i in made.graph.initializer}
    for node in [n for n in made.graph.node if n.name in chosen and n.op_type == 'MatMul']:
        name = node.input[1]
        weight = array(held[name])
        scale = (np.abs(weight).max(0) / 127).clip(1e-12).astype(np.float32)
        stored = np.rint(weight / scale).astype(np.int8)
        made.graph.initializer.remove(held[name])
        made.graph.initializer.extend([numpy_helper.from_array(stored, f'{name}_quantized'),
                                       numpy_helper.from_array(scale, f'{name}_scale')])
        at = list(made.graph.node).index(node)
        made.graph.node.insert(at, helper.make_node(
            'DequantizeLinear', [f'{name}_quantized', f'{name}_scale'],
            [f'{name}_dequantized'], f'{node.name}_dequantize', axis=1))
        node.input[1] = f'{name}_dequantized'
    return made


def weight_bytes(graph: onnx.ModelProto) -> int:
    """Return the bytes of the graph's initialisers."""
    return sum(int(np.prod(i.dims)) * np.dtype(helper.tensor_dtype_to_np_dtype(
        i.data_type)).itemsize for i in graph.graph.initializer
        if i.data_type != TensorProto.STRING)
