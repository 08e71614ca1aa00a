"""The other graphs of a quantized network: its parts, its steps of some branches, its layers.

They are quantized as the whole network is and read the same stored weights, so what a cache saves
is computed in the same form, and nothing is stored twice:

    denoiser.onnx       layer [C, D] int8, scale [D]       -> denoiser_level    its first rows
                                                           -> denoiser_observed the others
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import numpy as np
import onnx
from onnx import numpy_helper

from diffusion_policy_rt.engines.bundle import SPLIT, WEIGHTS, Bundle, masked_part
from diffusion_policy_rt.engines.onnx_engine import make_session
from diffusion_policy_rt.engines.weights import SCALE, ZERO, StoredTensors, read_header
from diffusion_policy_rt.runtime.blocks import names
from diffusion_policy_rt.train.outline import array
from diffusion_policy_rt.train.quantize.cuts import cut
from diffusion_policy_rt.train.quantize.forms import Feed, Form, quantize
from diffusion_policy_rt.train.quantize.write import QUANTIZED, read_graph
from diffusion_policy_rt.train.shared import Weights

OF_WEIGHTS = (SCALE, ZERO, QUANTIZED + SCALE, QUANTIZED + ZERO)
"""What else belongs to a quantized tensor, by the end of its name."""


def pieces(source: Bundle, part: str, whole: onnx.ModelProto, form: Form,
           feeds: Sequence[Feed], keep: Collection[str]) -> dict[str, onnx.ModelProto]:
    """Return the other graphs of a part by name; `whole` is its quantized graph.

    `feeds` are inputs of the whole to calibrate on, `keep` the layers that stay in fp32.
    """
    if part == 'denoiser':
        return dict(_denoiser(source, whole, form, feeds, keep))
    if form.kind == 'dynamic':  # ranges found on a part of an image are not those of the whole
        return {}
    return dict(cut(source, part.removeprefix('encoder_'), whole))


def _denoiser(source: Bundle, whole: onnx.ModelProto, form: Form, feeds: Sequence[Feed],
              keep: Collection[str]) -> Iterator[tuple[str, onnx.ModelProto]]:
    weights = Weights('denoiser', read_header(source.path(WEIGHTS))[0],
                      StoredTensors(source.path(WEIGHTS)))
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
    stored = {i.name: i for i in whole.graph.initializer}
    own = {i.name: i for i in graph.graph.initializer}
    held = {i.name: i for i in made.graph.initializer}
    for name in [n.removesuffix(QUANTIZED) for n in held if n.endswith(QUANTIZED)]:
        found = next(f for f in weights.find(own[name]) if f.name + QUANTIZED in stored)
        rows = slice(found.first, found.first + own[name].dims[0])
        _put(held, f'{name}{QUANTIZED}', array(stored[f'{found.name}{QUANTIZED}'])[rows])
        for suffix in OF_WEIGHTS:
            if name + suffix in held:
                _put(held, name + suffix, array(stored[found.name + suffix]))


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
