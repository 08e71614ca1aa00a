"""Exported graphs that share their weights: they refer to the tensors of the weights file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from diffusion_policy_rt.engines.bundle import WEIGHTS
from diffusion_policy_rt.engines.weights import Stored, part_of, prefix_of
from diffusion_policy_rt.train.compact import compact

NET, MASKED = 'net.', 'step.'
"""Before the names of layers that a part took over from the whole network, or from a step."""


def refer(path: Path, weights: Weights, metadata: Mapping[str, str] | None = None) -> None:
    """Make an exported graph refer to the weights file, and call its products by their layers."""
    graph = onnx.load(str(path))
    onnx.helper.set_model_props(graph, dict(metadata or {}))
    own_weights(graph)
    name_products(graph, weights.called)
    weights.share(graph)
    compact(graph)
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
