"""A quantized bundle: 8-bit tensors and their scales in place of the fp32 ones."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto
from safetensors.numpy import save_file

from diffusion_policy_rt.engines.bundle import WEIGHTS, Bundle, write_bundle
from diffusion_policy_rt.engines.onnx_engine import OnnxEngine
from diffusion_policy_rt.engines.parity import TOLERANCE, Networks, deviation, write_parity
from diffusion_policy_rt.engines.weights import (
    SCALE, SCALE_2, ZERO, StoredTensors, prefix_of, read_header)
from diffusion_policy_rt.train.compact import compact
from diffusion_policy_rt.train.outline import array, content, read_outline
from diffusion_policy_rt.train.shared import Weights

QUANTIZED = '_quantized'
"""What ONNX Runtime's quantizers append to the name of a tensor."""
FLOATS = (TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT4E2M1)
ANY, SLACK = 1e9, 2.0
"""Tolerances: while the deviation is measured, and of other machines relative to it."""


def read_graph(bundle: Bundle, part: str) -> onnx.ModelProto:
    """Return a part's graph, which refers to its weights where they lie."""
    return read_outline(bundle.path(f'{part}.onnx'))


def values(initialiser: onnx.TensorProto) -> np.ndarray:
    """Return a tensor's values, 4-bit ones two to a byte."""
    if initialiser.data_type != TensorProto.FLOAT4E2M1:
        return array(initialiser)
    *rows, columns = initialiser.dims
    return np.frombuffer(content(initialiser), np.uint8).reshape(*rows, columns // 2)


def quantized_tensors(part: str, graph: onnx.ModelProto,
                      stored: Collection[str]) -> dict[str, np.ndarray]:
    """Return a graph's quantized tensors and their scales, to be stored for the fp32 ones.

    `stored` are the names of these.
    """
    held = {i.name: i for i in graph.graph.initializer}
    made: dict[str, np.ndarray] = {}
    for name in [i.name for i in graph.graph.initializer if i.data_type in FLOATS]:
        whole = prefix_of(part) + name
        if whole in stored:
            made |= {whole + suffix: values(held[name + suffix])
                     for suffix in ('', SCALE, SCALE_2) if name + suffix in held}
    for name in [n for n in held if n.endswith(QUANTIZED)]:
        plain = name.removesuffix(QUANTIZED)
        whole = prefix_of(part) + plain
        if whole not in stored:
            continue
        made[whole] = values(held[name])
        made[whole + SCALE] = values(held[(plain if plain + SCALE in held else name) + SCALE])
        zero = held.get(plain + ZERO, held.get(name + ZERO))
        if zero is not None and np.any(values(zero)):
            made[whole + ZERO] = values(zero)
    return made


def write_quantized(source: Bundle, graphs: Mapping[str, onnx.ModelProto],
                    dtypes: Mapping[str, str], folder: Path,
                    facts: Mapping[str, Any], networks: Networks | None = None,
                    others: Mapping[str, Mapping[str, onnx.ModelProto]] | None = None) -> Bundle:
    """Write a bundle of these graphs; `source` is the fp32 bundle that they were made from.

    `facts` holds `training`, `quality`, `provenance`. `networks` compute what the bundle will,
    where ONNX Runtime does not. `others` are per network its `pieces`: with a denoiser's, the
    bundle keeps the source's schedules of blocks.
    """
    layout = read_header(source.path(WEIGHTS))[1]
    stored, quantized = StoredTensors(source.path(WEIGHTS)), dict[str, np.ndarray]()
    for part, graph in graphs.items():
        quantized |= quantized_tensors(part, graph, stored)
    tensors = {name: stored[name] for name in stored if name not in quantized} | quantized

    others = others or {}
    manifest = {'spec': source.spec.to_json(), 'model': dict(source.model), **facts,
                'dtypes': dict(dtypes),
                'blocks': dict(source.blocks) if 'denoiser' in others else {}}

    def fill(target: Path, tolerance: float) -> None:
        save_file(tensors, target / WEIGHTS, layout)
        stored = read_header(target / WEIGHTS)[0]
        for part, graph in graphs.items():
            weights = Weights(part, stored, tensors)
            for name, each in {part: graph, **others.get(part, {})}.items():
                made = onnx.ModelProto()
                made.CopyFrom(each)
                weights.share(made)
                compact(made)
                (target / f'{name}.onnx').write_bytes(made.SerializeToString())
        write_parity(target, source.spec, reference, tolerance)

    reference = OnnxEngine(source)
    made = write_bundle(folder, manifest, partial(fill, tolerance=ANY))
    found = deviation(made, networks or OnnxEngine(made))
    return write_bundle(folder, manifest, partial(
        fill, tolerance=max(TOLERANCE, SLACK * found[0] if found else 0.0)))
