"""The other graphs of a quantized network: its parts, its steps of some branches, its layers.

They are quantized as the whole network is and read the same stored weights, so what a cache saves
is computed in the same form, and nothing is stored twice:

    denoiser.onnx       layer [C, D] int8, scale [D]       -> denoiser_level    its first rows
                                                           -> denoiser_observed the others
    encoder_front.onnx  Q DQ Conv Q DQ Relu | Q DQ Conv .. -> stage_front_0 | stage_front_1 | ..
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper
from safetensors.numpy import load_file

from diffusion_policy_rt.engines.bundle import (
    HEAD, SPLIT, WEIGHTS, Bundle, masked_part, stage_part)
from diffusion_policy_rt.engines.onnx_engine import make_session
from diffusion_policy_rt.engines.weights import SCALE, ZERO, read_header
from diffusion_policy_rt.runtime.blocks import names
from diffusion_policy_rt.train.export import Weights
from diffusion_policy_rt.train.quantize.forms import Feed, Form, quantize
from diffusion_policy_rt.train.quantize.write import QUANTIZED, read_graph

OF_WEIGHTS = (SCALE, ZERO, QUANTIZED + SCALE, QUANTIZED + ZERO)
"""What else belongs to a quantized tensor, by the end of its name."""
CASTS = ('QuantizeLinear', 'DequantizeLinear')


def pieces(source: Bundle, part: str, whole: onnx.ModelProto, form: Form,
           feeds: Sequence[Feed], keep: Collection[str]) -> dict[str, onnx.ModelProto]:
    """Return the other graphs of a part by name; `whole` is its quantized graph.

    `feeds` are inputs of the whole to calibrate on, `keep` the layers that stay in fp32.
    """
    if part == 'denoiser':
        return dict(_denoiser(source, whole, form, feeds, keep))
    if form.kind == 'dynamic':  # ranges found on a part of an image are not those of the whole
        return {}
    return dict(_encoder(source, part.removeprefix('encoder_'), whole))


# -- a denoiser's parts -------------------------------------------------------------------------


def _denoiser(source: Bundle, whole: onnx.ModelProto, form: Form, feeds: Sequence[Feed],
              keep: Collection[str]) -> Iterator[tuple[str, onnx.ModelProto]]:
    weights = Weights('denoiser', read_header(source.path(WEIGHTS))[0],
                      load_file(source.path(WEIGHTS)))
    given = Inputs(source, feeds if form.kind == 'static' else ())
    for name in (*SPLIT, *map(masked_part, steps_of(source))):
        graph = read_graph(source, name)
        told = {i.name for i in graph.graph.input}  # a step without branches needs no level
        made = quantize(graph, form, [{key: feed[key] for key in told}
                                      for feed in given.of(name)], keep)
        take_weights(made, graph, whole, weights)
        yield name, made


def steps_of(source: Bundle) -> list[str]:
    """Return which branches are computed in each graph of a step that computes some."""
    return sorted({call for entry in source.blocks.values() for call in entry['fresh']})


def take_weights(made: onnx.ModelProto, graph: onnx.ModelProto, whole: onnx.ModelProto,
                 weights: Weights) -> None:
    """Put the whole network's quantized weights, or their rows, in the place of a part's own.

    `made` is the part quantized by itself, `graph` before that. Each column of a weight has its
    scale from all rows of the whole, so rows of it are as good as the whole.
    """
    stored = {i.name: numpy_helper.to_array(i) for i in whole.graph.initializer}
    own = {i.name: i for i in graph.graph.initializer}
    held = {i.name: i for i in made.graph.initializer}
    for name in [n.removesuffix(QUANTIZED) for n in held if n.endswith(QUANTIZED)]:
        found = next(f for f in weights.find(own[name]) if f.name + QUANTIZED in stored)
        rows = slice(found.first, found.first + own[name].dims[0])
        _put(held, f'{name}{QUANTIZED}', stored[f'{found.name}{QUANTIZED}'][rows])
        for suffix in OF_WEIGHTS:
            if name + suffix in held:
                _put(held, name + suffix, stored[found.name + suffix])


def _put(held: Mapping[str, onnx.TensorProto], name: str, values: np.ndarray) -> None:
    held[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), name))


class Inputs:
    """What a denoiser's parts are given where the whole is given these inputs."""

    def __init__(self, source: Bundle, feeds: Iterable[Feed]) -> None:
        """Compute them by the fp32 bundle's own parts."""
        self._feeds: dict[str, list[Feed]] = {name: [] for name in SPLIT}
        self._branches: list[list[np.ndarray]] = []
        every = next((masked_part(call) for call in steps_of(source) if '0' not in call), None)
        sessions = {name: make_session(source.path(f'{name}.onnx'), 1)
                    for name in (*SPLIT, *([every] if every else []))}
        for feed in feeds:
            level = {name: feed[name] for name in ('c_noise', 'c_stop') if name in feed}
            cond = {'cond': feed['cond']}
            step = {'x': feed['x'], 'level': sessions[SPLIT[0]].run(None, level)[0],
                    'observed': sessions[SPLIT[1]].run(None, cond)[0]}
            for name, inputs in zip(SPLIT, (level, cond, step)):
                self._feeds[name].append(inputs)
            if every:
                self._branches.append(sessions[every].run(None, step)[1:])

    def of(self, name: str) -> list[Feed]:
        """Return the inputs of a part.

        Branches that it is given are those of the same call: of near enough the range of those of
        a call before.
        """
        if name in SPLIT:
            return self._feeds[name]
        fresh = name.removeprefix(masked_part(''))
        kept = [i for i, bit in enumerate(fresh) if bit == '0']
        return [{**step, **dict(zip(names(fresh)[0], (branches[i] for i in kept)))}
                for step, branches in zip(self._feeds[SPLIT[2]], self._branches)]


# -- an encoder's layers ------------------------------------------------------------------------


def _encoder(source: Bundle, camera: str,
             whole: onnx.ModelProto) -> Iterator[tuple[str, onnx.ModelProto]]:
    numbers = itertools.takewhile(lambda number: f'{stage_part(camera, number)}.onnx' in (
        source.files), itertools.count())
    stages = [stage_part(camera, number) for number in numbers]
    if not stages:
        return
    convolutions = [n for n in whole.graph.node if n.op_type == 'Conv']
    cuts = [_before(whole, node.input[0]) for node in convolutions[:len(stages) + 1]]
    for name, first, last in zip([*stages, stage_part(camera, HEAD)], cuts,
                                 [*cuts[1:], whole.graph.output[0].name]):
        yield name, between(whole, first, last, read_graph(source, name))


def _before(graph: onnx.ModelProto, tensor: str) -> str:
    """Return what a tensor was before it was quantized and back."""
    made = {output: node for node in graph.graph.node for output in node.output}
    while tensor in made and made[tensor].op_type in CASTS:
        tensor = made[tensor].input[0]
    return tensor


def between(whole: onnx.ModelProto, first: str, last: str,
            like: onnx.ModelProto) -> onnx.ModelProto:
    """Return the nodes from a tensor to another as a graph with the inputs and outputs of `like`.

    Convolutions do not pad: a stage is given its margins.
    """
    nodes = _leading_to(whole, last, first)
    (given,), (taken,) = like.graph.input, like.graph.output
    renamed = {first: given.name, last: taken.name}
    for node in nodes:
        for side in (node.input, node.output):
            side[:] = [renamed.get(name, name) for name in side]
        for attribute in node.attribute:
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
