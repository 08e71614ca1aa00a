"""Exported graphs that share their weights: they refer to the tensors of the weights file.

An ONNX file holds 2 GB at most, and the exporter then puts each weight into a file of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from onnx.external_data_helper import uses_external_data

from diffusion_policy_rt.engines.bundle import WEIGHTS
from diffusion_policy_rt.engines.weights import Stored, part_of, prefix_of
from diffusion_policy_rt.train.compact import compact
from diffusion_policy_rt.train.outline import SMALL, array, content, hold, place, read_outline

NET, MASKED = 'net.', 'step.'
"""Before the names of layers that a part took over from the whole network, or from a step."""


def refer(exported: Path, path: Path, weights: Weights,
          metadata: Mapping[str, str] | None = None) -> None:
    """Write an exported graph to `path`, its products called by their layers.

    It refers to the weights file, which lies beside `path`.
    """
    graph = read_outline(exported)
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
        self._prefix = prefix_of(part)
        self._stored, self._tensors = part_of(part, stored), tensors
        self._held: dict[bytes, list[str]] = {}
        for name in self._stored:
            self._held.setdefault(_digest(self._tensor(name).tobytes()), []).append(name)

    def _tensor(self, name: str) -> np.ndarray:
        return self._tensors[self._prefix + name]

    def find(self, initialiser: onnx.TensorProto) -> list[Found]:
        """Return the tensors of these values, that of the same name first.

        The first or the last rows of a tensor are looked for too: a projection of several
        features, split, is that.
        """
        held = self._held.get(_digest(content(initialiser)), [])
        own = initialiser.name.removeprefix(MASKED).removeprefix(NET)
        found = [Found(name, 0, self._stored[name])
                 for name in sorted(held, key=lambda name: name != own)]
        return found or list(self._rows(array(initialiser)))

    def called(self, initialiser: onnx.TensorProto) -> list[str]:
        """Return the names of the tensors of these values, or the initialiser's own."""
        return [found.name for found in self.find(initialiser)] or [initialiser.name]

    def _rows(self, rows: np.ndarray) -> Iterator[Found]:
        count = len(rows) if rows.ndim == 2 else 0
        for name, where in self._stored.items():
            if not count or where.shape[1:] != rows.shape[1:] or count >= where.shape[0]:
                continue
            whole = self._tensor(name)
            for first in (0, len(whole) - count):
                if whole.dtype == rows.dtype and np.array_equal(
                        whole[first:first + count], rows):
                    yield Found(name, first, Stored(
                        where.dtype, rows.shape, where.offset + first * whole[0].nbytes,
                        rows.nbytes))

    def share(self, graph: onnx.ModelProto) -> None:
        """Make initialisers refer to equal tensors in the file; small ones stay in the graph."""
        for initialiser in graph.graph.initializer:
            where = next((found.where for found in self.find(initialiser)), None)
            if where is not None and where.length >= SMALL:
                place(initialiser, WEIGHTS, where.offset, where.length)
            elif uses_external_data(initialiser):
                hold(initialiser, content(initialiser))


def _digest(values: bytes) -> bytes:
    return hashlib.sha256(values).digest()
