"""Write a trained policy as a bundle: weights once, graphs that refer to them, and a check."""

from __future__ import annotations

import copy
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file
from torch import nn

from diffusion_policy_rt.engines.bundle import (
    SPLIT, WEIGHTS, Bundle, masked_part, write_bundle)
from diffusion_policy_rt.engines.load import load_engine
from diffusion_policy_rt.engines.parity import check_parity, write_parity
from diffusion_policy_rt.engines.torch_engine import TorchNetworks
from diffusion_policy_rt.engines.weights import OWN, PRODUCTS, read_header
from diffusion_policy_rt.model.lower import lower
from diffusion_policy_rt.model.masked import MaskedStep
from diffusion_policy_rt.model.policy import Policy
from diffusion_policy_rt.model.split import Parts, split
from diffusion_policy_rt.runtime.blocks import names
from diffusion_policy_rt.spec import PolicySpec
from diffusion_policy_rt.train.shared import Weights, refer
from diffusion_policy_rt.train.stages import stage_graphs

OPSET = 17
Graphs = dict[str, tuple[nn.Module, dict[str, torch.Tensor], str]]


def export_bundle(policy: Policy, model: Mapping[str, Any], folder: Path,
                  facts: Mapping[str, Any], products: bool = True,
                  blocks: Mapping[str, Any] | None = None) -> Bundle:
    """Write the bundle, with outputs of its networks, and check that the CPU engine gives these.

    Layers are written as gather and matrix product, or where not `products` as they are.

    `model` is the networks' configuration; `facts` holds `training`, `quality`, `provenance`.
    `blocks` are schedules of branches to keep, by step count, as the manifest has them.
    """
    manifest = {'spec': policy.spec.to_json(), 'model': dict(model), **facts,
                'dtypes': {'weights': 'float32'}, 'blocks': blocks or {}}
    bundle = _write(policy.cpu().eval(), manifest, folder, products)
    # the copy that was written is gone by now, and its memory is the engine's
    check_parity(bundle, load_engine(bundle, 'onnxruntime'), 'onnxruntime')
    return bundle


def _write(policy: Policy, manifest: Mapping[str, Any], folder: Path, products: bool) -> Bundle:
    # layers are rewritten from the weights they have, which are not copied before
    written = copy.deepcopy(policy, {id(weight): weight for weight in policy.parameters()})
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
        for name, graph in (graphs(written) | split_graphs(policy.spec, in_parts)).items():
            write_graph(*graph, partial / f'{name}.onnx',
                        weights['denoiser' if name in SPLIT else name])
        for fresh in {call for entry in manifest['blocks'].values() for call in entry['fresh']}:
            write_graph(*masked_graph(policy.spec, in_parts, fresh),
                        partial / f'{masked_part(fresh)}.onnx', weights['denoiser'])
        for stage in stage_graphs(written):
            write_graph(stage.module, {'x': stage.example}, 'y', partial / f'{stage.name}.onnx',
                        weights[stage.part], stage.dynamic, stage.metadata)
        write_parity(partial, policy.spec, TorchNetworks(policy))

    return write_bundle(folder, manifest, fill)


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


def masked_graph(spec: PolicySpec, parts: Parts, fresh: str) -> tuple[
        nn.Module, dict[str, torch.Tensor], Sequence[str]]:
    """Return the like of a step that computes some branches."""
    inputs = split_graphs(spec, parts)[SPLIT[2]][1]
    with torch.no_grad():
        made = MaskedStep(parts.step, '1' * len(fresh))(*inputs.values())[1:]
    kept, computed = names(fresh)
    given = dict(zip(kept, [tensor for tensor, bit in zip(made, fresh) if bit == '0']))
    return MaskedStep(parts.step, fresh), inputs | given, ('output', *computed)


def write_graph(module: nn.Module, inputs: Mapping[str, torch.Tensor],
                output: str | Sequence[str], path: Path, weights: Weights,
                dynamic: Mapping[str, Mapping[int, str]] | None = None,
                metadata: Mapping[str, str] | None = None) -> None:
    """Write one network as a graph that refers to the weights file beside it."""
    # above 2 GB the exporter puts each weight into a file, which has no place in a bundle
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        exported = Path(folder) / path.name
        export_graph(module, inputs, output, exported, dynamic)
        refer(exported, path, weights, metadata)


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
