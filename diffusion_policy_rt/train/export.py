"""Write a trained policy as a bundle: weights once, graphs that refer to them, and a check."""

from __future__ import annotations

import copy
import hashlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from onnx import TensorProto, numpy_helper
from safetensors.numpy import save_file
from torch import nn

from diffusion_policy_rt.engines.bundle import (
    SPLIT, WEIGHTS, Bundle, masked_part, write_bundle)
from diffusion_policy_rt.engines.load import load_engine
from diffusion_policy_rt.engines.parity import check_parity, write_parity
from diffusion_policy_rt.engines.torch_engine import TorchNetworks
from diffusion_policy_rt.engines.weights import (
    OWN, PRODUCTS, Stored, part_of, prefix_of, read_header)
from diffusion_policy_rt.model.lower import lower
from diffusion_policy_rt.model.masked import MaskedStep
from diffusion_policy_rt.model.policy import Policy
from diffusion_policy_rt.model.split import Parts, split
from diffusion_policy_rt.runtime.blocks import names
from diffusion_policy_rt.spec import PolicySpec
from diffusion_policy_rt.train.stages import stage_graphs

OPSET = 17
NET, MASKED = 'net.', 'step.'
"""Before the names of layers that a part took over from the whole network, or from a step."""
Graphs = dict[str, tuple[nn.Module, dict[str, torch.Tensor], str]]


def export_bundle(policy: Policy, model: Mapping[str, Any], folder: Path,
                  facts: Mapping[str, Any], products: bool = True,
                  blocks: Mapping[str, Any] | None = None) -> Bundle:
    """Write the bundle, with outputs of its networks, and check that the CPU engine gives these.

    Layers are written as gather and matrix product, or where not `products` as they are.

    `model` is the networks' configuration; `facts` holds `training`, `quality`, `provenance`.
    `blocks` are schedules of branches to keep, by step count, as the manifest has them.
    """
    policy = policy.cpu().eval()
    written = copy.deepcopy(policy)
    in_parts = split(written.denoiser)
    if products:
        lower(written)
        for part in in_parts:
            lower(part)

    def fill(partial: Path) -> None:
        tensors = {name: np.ascontiguousarray(t.numpy())
                   for name, t in written.state_dict().items()}
        save_file(tensors, partial / WEIGHTS, {'layout': PRODUCTS if products else OWN})
        stored = read_header(partial / WEIGHTS)[0]
        weights = {name: Weights(name, stored, tensors) for name in graphs(written)}
        for name, (module, inputs, output) in (
                graphs(written) | split_graphs(policy.spec, in_parts)).items():
            export_graph(module, inputs, output, partial / f'{name}.onnx')
            refer(partial / f'{name}.onnx', weights['denoiser' if name in SPLIT else name])
        for fresh in {call for entry in (blocks or {}).values() for call in entry['fresh']}:
            refer(export_masked(policy.spec, in_parts, fresh, partial), weights['denoiser'])
        for stage in stage_graphs(written):
            path = partial / f'{stage.name}.onnx'
            export_graph(stage.module, {'x': stage.example}, 'y', path, stage.dynamic)
            refer(path, weights[stage.part], stage.metadata)
        write_parity(partial, policy.spec, TorchNetworks(policy))

    bundle = write_bundle(folder, {'spec': policy.spec.to_json(), 'model': dict(model), **facts,
                                   'dtypes': {'weights': 'float32'}, 'blocks': blocks or {}}, fill)
    check_parity(bundle, load_engine(bundle, 'onnxruntime'), 'onnxruntime')
    return bundle


def graphs(policy: Policy) -> Graphs:
    """Return each network's module, example inputs by name, and the name of its output."""
    spec = policy.spec
    made: Graphs = {
        f'encoder_{c.name}': (policy.encoders[c.name],
                              {'image': torch.zeros(1, 3, *c.input_size)}, 'latent')
        for c in spec.cameras}
    level, cond, x = examples(spec)
    c_noise, *stop = level.items()
    made['denoiser'] = (policy.denoiser, x | dict([c_noise]) | cond | dict(stop), 'output')
    return made


def split_graphs(spec: PolicySpec, parts: Parts) -> Graphs:
    """Return the like of the denoiser's parts."""
    level, cond, x = examples(spec)
    with torch.no_grad():
        made = {'level': parts.level(*level.values()), 'observed': parts.observed(*cond.values())}
    return {SPLIT[0]: (parts.level, level, 'level'), SPLIT[1]: (parts.observed, cond, 'observed'),
            SPLIT[2]: (parts.step, x | made, 'output')}


def examples(spec: PolicySpec) -> tuple[dict[str, torch.Tensor], ...]:
    """Return a denoiser's levels, condition and noisy chunk, each by name."""
    levels = ('c_noise', 'c_stop')[:1 + spec.precond.stop_time]
    return ({name: torch.zeros(1) for name in levels}, {'cond': torch.zeros(1, spec.cond_dim)},
            {'x': torch.zeros(1, spec.horizon, len(spec.action))})


def export_masked(spec: PolicySpec, parts: Parts, fresh: str, folder: Path) -> Path:
    """Write the graph of a step that computes some branches, and return its path."""
    inputs = split_graphs(spec, parts)[SPLIT[2]][1]
    with torch.no_grad():
        made = MaskedStep(parts.step, '1' * len(fresh))(*inputs.values())[1:]
    kept, computed = names(fresh)
    given = dict(zip(kept, [tensor for tensor, bit in zip(made, fresh) if bit == '0']))
    path = folder / f'{masked_part(fresh)}.onnx'
    export_graph(MaskedStep(parts.step, fresh), inputs | given, ('output', *computed), path)
    return path


def export_graph(module: nn.Module, inputs: Mapping[str, torch.Tensor],
                 output: str | Sequence[str], path: Path,
                 dynamic: Mapping[str, Mapping[int, str]] | None = None,
                 opset: int = OPSET) -> None:
    """Write one network as an ONNX graph that holds its weights.

    Shapes are those of `inputs`, but for the dimensions that `dynamic` names.
    """
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # the exporter's own deprecation notices
        torch.onnx.export(module, tuple(inputs.values()), str(path), input_names=list(inputs),
                          output_names=[output] if isinstance(output, str) else list(output),
                          opset_version=opset, dynamo=False,
                          dynamic_axes=dynamic)


def refer(path: Path, weights: Weights, metadata: Mapping[str, str] | None = None) -> None:
    """Make an exported graph refer to the weights file, and call its products by their layers."""
    graph = onnx.load(str(path))
    onnx.helper.set_model_props(graph, dict(metadata or {}))
    own_weights(graph)
    name_products(graph, weights.called)
    weights.share(graph)
    path.write_bytes(graph.SerializeToString())


def own_weights(graph: onnx.ModelProto) -> None:
    """Give each layer weights of its own name; the exporter writes equal ones once."""
    held = {i.name: i for i in graph.graph.initializer}
    for node in [n for n in graph.graph.node if n.op_type == 'Identity' and n.input[0] in held]:
        own = graph.graph.initializer.add()
        own.CopyFrom(held[node.input[0]])
        own.name = node.output[0]
        graph.graph.node.remove(node)


def name_products(graph: onnx.ModelProto, called: Callable[[onnx.TensorProto], Sequence[str]]
                  = lambda weight: [weight.name]) -> None:
    """Call each product by the layer whose weight it reads, for the audit of what was executed.

    `called` returns what a weight may be called in the whole network: several of equal values.
    """
    weights = {i.name: i for i in graph.graph.initializer if i.name.endswith('.weight')}
    taken = set[str]()
    for node in graph.graph.node:
        if node.op_type in ('MatMul', 'Conv') and node.input[1] in weights:
            node.name = next(name for name in called(weights[node.input[1]])
                             if name not in taken).removesuffix('.weight')
            taken.add(f'{node.name}.weight')


class Found(NamedTuple):
    """Where an initialiser's values lie."""

    name: str
    """Of the tensor, within its part."""
    first: int
    """The tensor's row that is the initialiser's first."""
    where: Stored


class Weights:
    """One part's tensors in the weights file, found by their values."""

    def __init__(self, part: str, stored: Mapping[str, Stored],
                 tensors: Mapping[str, np.ndarray]) -> None:
        """Take what the file's header says, and what the file holds."""
        prefix = prefix_of(part)
        self._stored = part_of(part, stored)
        self._tensors = {name: tensors[prefix + name] for name in self._stored}
        self._held: dict[bytes, list[str]] = {}
        for name, array in self._tensors.items():
            self._held.setdefault(_digest(array.tobytes()), []).append(name)

    def find(self, initialiser: onnx.TensorProto) -> list[Found]:
        """Return the tensors of these values, that of the same name first.

        The first or the last rows of a tensor are looked for too: a projection of several
        features, split, is that.
        """
        held = self._held.get(_digest(content(initialiser)), [])
        own = initialiser.name.removeprefix(MASKED).removeprefix(NET)
        found = [Found(name, 0, self._stored[name])
                 for name in sorted(held, key=lambda name: name != own)]
        return found or list(self._rows(numpy_helper.to_array(initialiser)))

    def called(self, initialiser: onnx.TensorProto) -> list[str]:
        """Return the names of the tensors of these values, or the initialiser's own."""
        return [found.name for found in self.find(initialiser)] or [initialiser.name]

    def _rows(self, array: np.ndarray) -> Iterator[Found]:
        rows = len(array) if array.ndim == 2 else 0
        for name, whole in self._tensors.items():
            if rows and whole.ndim == 2 and whole.shape[1:] == array.shape[1:] and (
                    rows < len(whole)) and whole.dtype == array.dtype:
                for first in (0, len(whole) - rows):
                    if np.array_equal(whole[first:first + rows], array):
                        where = self._stored[name]
                        yield Found(name, first, Stored(
                            where.dtype, array.shape, where.offset + first * whole[0].nbytes,
                            array.nbytes))

    def share(self, graph: onnx.ModelProto) -> None:
        """Make initialisers refer to equal tensors in the file; small ones stay in the graph."""
        for initialiser in graph.graph.initializer:
            where = next((found.where for found in self.find(initialiser)), None)
            if where is None or where.length < 256:
                continue
            initialiser.ClearField('raw_data')
            initialiser.data_location = TensorProto.EXTERNAL
            for key, value in (('location', WEIGHTS), ('offset', where.offset),
                               ('length', where.length)):
                initialiser.external_data.add(key=key, value=str(value))


def content(initialiser: onnx.TensorProto) -> bytes:
    """Return the values as they lie in a file; 4-bit ones are packed."""
    return initialiser.raw_data or numpy_helper.to_array(initialiser).tobytes()


def _digest(values: bytes) -> bytes:
    return hashlib.sha256(values).digest()
