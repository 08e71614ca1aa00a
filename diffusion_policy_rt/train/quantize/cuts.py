"""A quantized encoder by its stages: its graph is cut in front of convolutions' quantizers.

    encoder_front.onnx    Q DQ Conv Q DQ Relu | Q DQ Conv Q DQ Relu | .. Conv .. latent
                          stage_front_0       | stage_front_1       | stage_front_head

What lies between is floating-point, and quantizing it again with the same scale gives the same
integers; so the stages one after the other have the bits of the whole.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

import onnx
from onnx import helper

from diffusion_policy_rt.engines.bundle import HEAD, Bundle, stage_part
from diffusion_policy_rt.train.quantize.write import read_graph

CASTS = ('QuantizeLinear', 'DequantizeLinear')


def cut(source: Bundle, camera: str,
        whole: onnx.ModelProto) -> Iterator[tuple[str, onnx.ModelProto]]:
    """Yield the graphs of an encoder's stages by name; none where the source has none."""
    numbers = itertools.takewhile(lambda number: f'{stage_part(camera, number)}.onnx' in (
        source.files), itertools.count())
    stages = [stage_part(camera, number) for number in numbers]
    if not stages:
        return
    likes = {name: read_graph(source, name) for name in [*stages, stage_part(camera, HEAD)]}
    ends = [*_beginnings(whole, list(likes.values())), whole.graph.output[0].name]
    for (name, like), first, last in zip(likes.items(), ends, ends[1:]):
        yield name, between(whole, first, last, like)


def _beginnings(whole: onnx.ModelProto, parts: list[onnx.ModelProto]) -> list[str]:
    """Return the tensor that each part begins with, told by how many convolutions it has."""
    convolutions = _convolutions(whole.graph.node)
    counts = [len(_convolutions(part.graph.node)) for part in parts[:-1]]
    return [_before(whole, convolutions[count].input[0]) if count < len(convolutions)
            else convolutions[-1].output[0] for count in itertools.accumulate(counts, initial=0)]


def _convolutions(nodes: Iterable[onnx.NodeProto]) -> list[onnx.NodeProto]:
    return [node for node in nodes if node.op_type == 'Conv']


def _before(graph: onnx.ModelProto, tensor: str) -> str:
    """Return what a tensor was before it was quantized and back."""
    made = {output: node for node in graph.graph.node for output in node.output}
    while tensor in made and made[tensor].op_type in CASTS:
        tensor = made[tensor].input[0]
    return tensor


def between(whole: onnx.ModelProto, first: str, last: str,
            like: onnx.ModelProto) -> onnx.ModelProto:
    """Return the nodes from a tensor to another as a graph with the inputs and outputs of `like`.

    Its first convolution does not pad: a stage is given its margin.
    """
    nodes = _leading_to(whole, last, first)
    (given,), (taken,) = like.graph.input, like.graph.output
    renamed = {first: given.name, last: taken.name}
    for node in nodes:
        for side in (node.input, node.output):
            side[:] = [renamed.get(name, name) for name in side]
    for attribute in [a for node in _convolutions(nodes)[:1] for a in node.attribute]:
        if attribute.name == 'pads':
            attribute.ints[:] = [0] * len(attribute.ints)
    used = {name for node in nodes for name in node.input}
    made = helper.make_model(helper.make_graph(
        nodes, like.graph.name, [given], [taken],
        [i for i in whole.graph.initializer if i.name in used]),
        opset_imports=whole.opset_import, ir_version=whole.ir_version)
    helper.set_model_props(made, {p.key: p.value for p in like.metadata_props})
    return made


def _leading_to(whole: onnx.ModelProto, last: str, first: str) -> list[onnx.NodeProto]:
    """Return copies of the nodes that `last` needs once `first` is given, in their order."""
    needed, taken = {last}, list[onnx.NodeProto]()
    for node in reversed(whole.graph.node):
        if needed.intersection(node.output) and first not in node.output:
            needed.update(node.input)
            taken.append(onnx.NodeProto.FromString(node.SerializeToString()))
    return taken[::-1]
