"""Graphs without what no engine reads: more than half of a quantized one is names and shapes.

    /norm/LayerNormalization_output_0 -> /first/MatMul (layers.0.first)     4 -> layers.0.first
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import onnx

from diffusion_policy_rt.engines.executed import FLOAT_OPS, INT8_OPS


def compact(model: onnx.ModelProto) -> None:
    """Make a stored graph smaller; it computes the same.

    Shapes within go, which engines infer, and the names of nodes but of products, whose types are
    audited by them. Inputs, outputs and weights keep theirs; other tensors get short ones.
    """
    model.graph.ClearField('value_info')
    for node in model.graph.node:
        if node.op_type not in FLOAT_OPS | INT8_OPS:
            node.ClearField('name')
    shorten(model.graph)


def shorten(graph: onnx.GraphProto) -> None:
    """Call what nodes make by numbers, hexadecimal, but for the graph's outputs.

    What a convolution makes begins with its own name: ONNX Runtime calls some by that.
    """
    kept = {told.name for told in (*graph.input, *graph.output, *graph.initializer)}
    free = (name for name in (f'{n:x}' for n in itertools.count()) if name not in kept)
    short, layers = dict[str, str](), dict[str, str]()
    for node in graph.node:
        node.input[:] = [short.get(name, name) for name in node.input]
        made = [name for name in node.output if name and name not in kept]
        layer = layer_of(node, layers)
        short |= {name: f'{layer}/{next(free)}' if layer else next(free) for name in made}
        node.output[:] = [short.get(name, name) for name in node.output]
        layers |= dict.fromkeys(node.output, layer)


def layer_of(node: onnx.NodeProto, layers: Mapping[str, str]) -> str:
    """Return the convolution that makes a node's output, alone or with its activation; else ''."""
    if node.op_type == 'Conv':
        return node.name
    return layers.get(node.input[0], '') if node.op_type == 'Relu' else ''
