"""Graphs of fp8 and NVFP4 products: standard quantizers, and TensorRT's own for 4-bit activations.

The types are those of ONNX (FLOAT8E4M3FN, FLOAT4E2M1); weights are stored in them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from diffusion_policy_rt.engines.weights import BLOCK, SCALE, SCALE_2
from diffusion_policy_rt.train.export import export_graph
from diffusion_policy_rt.train.quantize.floats import to_blocks, to_e4m3
from diffusion_policy_rt.train.shared import name_products, own_weights

EXPORTED, OPSETS = 20, {'fp8': 20, 'nvfp4': 23}
"""The newest that the exporter knows, and those that have the types; used operators are equal."""
IR = {'fp8': 10, 'nvfp4': 11}
FP8, FP4 = TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT4E2M1


def float_graph(module: nn.Module, inputs: Mapping[str, Tensor], output: str,
                form: str) -> onnx.ModelProto:
    """Return the graph of a network of `floats.FloatProduct`s."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'graph.onnx'
        export_graph(module, inputs, output, path, opset=EXPORTED)
        made = onnx.load(str(path))
    own_weights(made)
    name_products(made)
    replace(made.graph)
    made.opset_import[0].version, made.ir_version = OPSETS[form], IR[form]
    made.opset_import.append(helper.make_opsetid('trt', 1))
    return made


def replace(graph: onnx.GraphProto) -> None:
    """Put quantizers in place of the nodes `dprt::Rounding`, and call the products by layers."""
    nodes, layers = list(graph.node), dict[str, str]()
    del graph.node[:]
    for node in nodes:
        if node.op_type != 'Rounding':
            graph.node.append(node)
            node.name = layers.get(node.input[1], node.name) if len(node.input) > 1 else node.name
            continue
        made = Replacement(graph, node)
        graph.node.extend(made.nodes())
        if made.weight:
            layers[made.target] = made.source.removesuffix('.weight')


class Replacement:
    """What stands in a graph for one node `dprt::Rounding`."""

    def __init__(self, graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
        told: dict[str, Any] = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        self.graph, self.source, self.target = graph, node.input[0], node.output[0]
        self.fp8, self.scale = told['form'] == b'fp8', np.float32(told['scale'])
        self.weight = bool(told['weight'])

    def nodes(self) -> list[onnx.NodeProto]:
        """Return the nodes; constants and weights are added to the graph."""
        if self.weight:
            return self._stored()
        scale = self._hold(numpy_helper.from_array(self.scale, f'{self.target}_scale'))
        if self.fp8:
            zero = self._hold(helper.make_tensor(f'{self.target}_zero', FP8, [], b'\0', raw=True))
            return [self._node('QuantizeLinear', [self.source, scale, zero], '_8'),
                    self._node('DequantizeLinear', [f'{self.target}_8', scale], '')]
        block: Any = {'axis': -1, 'block_size': BLOCK}
        dynamic = helper.make_node(
            'TRT_FP4DynamicQuantize', [self.source, scale],
            [f'{self.target}_4', f'{self.target}_8'], f'{self.target}_dynamic', domain='trt',
            scale_type=FP8, **block)
        return [dynamic, self._node('DequantizeLinear', [f'{self.target}_8', scale], '_factors'),
                self._node('DequantizeLinear',
                           [f'{self.target}_4', f'{self.target}_factors'], '', **block)]

    def _stored(self) -> list[onnx.NodeProto]:
        """Store the weight in its type; of NVFP4 along the rows, which are what is summed."""
        held = next(i for i in self.graph.initializer if i.name == self.source)
        weight = torch.from_numpy(numpy_helper.to_array(held).copy())
        self.graph.initializer.remove(held)
        if self.fp8:
            scale = self._hold(numpy_helper.from_array(self.scale, self.source + SCALE))
            self._tensor(self.source, FP8, weight.shape, to_e4m3(weight / float(self.scale)))
            return [self._node('DequantizeLinear', [self.source, scale], '')]
        codes, factors = (t.t().contiguous() for t in to_blocks(weight.t(), float(self.scale)))
        whole = self._hold(numpy_helper.from_array(self.scale, self.source + SCALE_2))
        self._tensor(self.source, FP4, weight.shape, pack(codes))
        self._tensor(self.source + SCALE, FP8, factors.shape, factors)
        return [self._node('DequantizeLinear', [self.source + SCALE, whole], '_factors'),
                self._node('DequantizeLinear', [self.source, f'{self.target}_factors'], '',
                           axis=0, block_size=BLOCK)]

    def _tensor(self, name: str, kind: int, shape: Any, values: Tensor) -> None:
        self._hold(helper.make_tensor(name, kind, list(shape), raw_bytes(values), raw=True))

    def _hold(self, tensor: onnx.TensorProto) -> str:
        self.graph.initializer.append(tensor)
        return tensor.name

    def _node(self, operator: str, inputs: list[str], suffix: str, **more: Any) -> onnx.NodeProto:
        output = self.target + suffix
        return helper.make_node(operator, inputs, [output], f'{output}_{operator}', **more)


def pack(codes: Tensor) -> Tensor:
    """Put two codes of 4 bits in a byte, the first in the low half: [..., N] to [..., N / 2]."""
    return codes[..., ::2] | codes[..., 1::2] << 4


def raw_bytes(values: Tensor) -> bytes:
    """Return a tensor's bytes, of any type."""
    return values.contiguous().view(torch.uint8).numpy().tobytes()
