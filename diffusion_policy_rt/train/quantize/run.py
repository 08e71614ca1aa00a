"""From an fp32 bundle to one whose networks are each in their best 8-bit form."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

import onnx

from diffusion_policy_rt.engines.bundle import Bundle
from diffusion_policy_rt.engines.onnx_engine import OnnxEngine
from diffusion_policy_rt.engines.torch_engine import TorchNetworks, load_policy
from diffusion_policy_rt.engines.torch_weights import read_checkpoint
from diffusion_policy_rt.model.policy import Policy
from diffusion_policy_rt.model.policy import parts as networks_of
from diffusion_policy_rt.runtime.ports import Engine
from diffusion_policy_rt.train.export import export_bundle, graphs
from diffusion_policy_rt.train.quantize import floats, qdq
from diffusion_policy_rt.train.quantize.choose import Trial, choose, measure
from diffusion_policy_rt.train.quantize.float_graph import float_graph
from diffusion_policy_rt.train.quantize.forms import FP32, Feed, Form, layers, quantize
from diffusion_policy_rt.train.quantize.gate import LIMITS, share
from diffusion_policy_rt.train.quantize.pieces import pieces
from diffusion_policy_rt.train.quantize.probe import Patched, thin
from diffusion_policy_rt.train.quantize.write import read_graph, write_quantized

KEPT = (1, 2, 3, 4, 6, 8, 12, 16)
"""Numbers of sensitive layers that are tried in fp32."""
ENOUGH = 0.5
"""Share of the gate's allowance at which no more layers are kept in fp32: errors add up in closed
loop."""
FP32_EXTRA = 3
"""Bytes more that a weight takes in fp32 than in 8 bits."""
FEEDS = 64
"""Recorded inputs per network: half calibrate, half measure."""

Progress = Callable[[list[str]], Iterable[str]]


class Measure(Protocol):
    """What compares an engine's chunks with those of the policy before quantization."""

    def measure(self, engine: Engine) -> dict[str, Any]:
        """Return at least `chunk_rmse` and `jerk_ratio`."""


@dataclass
class Part:
    """One network: what it was given, what was tried, and what was chosen."""

    name: str
    graph: onnx.ModelProto
    feeds: list[Feed]
    trials: list[Trial] = field(default_factory=list)
    form: Form = FP32
    shares: dict[str, float] = field(default_factory=dict)
    """Layer -> the share of the gate's allowance that it alone uses up."""

    def quantized(self, keep: Iterable[str] = ()) -> onnx.ModelProto:
        """Return the graph in the chosen form, these layers in fp32."""
        return quantize(self.graph, self.form, self.feeds[::2], tuple(keep))


def reexport(bundle: Bundle, folder: Path, checkpoint: Path | None = None,
             products: bool = True, blocks: Mapping[str, Any] | None = None) -> Bundle:
    """Write the fp32 bundle that quantizing starts from: today's graphs, the bundle's weights.

    With a `checkpoint` that modelopt exported, the weights are that one's. `products` and `blocks`
    are those of `export_bundle`; without `blocks` the bundle's own are kept, but not for other
    weights than they were found and measured on.
    """
    if blocks is None:
        blocks = bundle.blocks if checkpoint is None else {}
    if checkpoint is None:
        policy = load_policy(bundle)
    else:
        policy = Policy(bundle.spec, bundle.model)
        policy.load_state_dict(read_checkpoint(checkpoint, policy))
    facts = {'training': dict(bundle.training), 'provenance': dict(bundle.provenance),
             'quality': dict(bundle.quality) if checkpoint is None else {}}
    return export_bundle(policy, bundle.model, folder, facts, products, blocks)


def make_parts(source: Bundle, feeds: Mapping[str, Sequence[Feed]]) -> list[Part]:
    """Return the policy's networks, each with some of its recorded inputs."""
    return [Part(name, read_graph(source, name), thin(given, FEEDS))
            for name, given in feeds.items()]


def settle(part: Part, wanted: Form | None, threads: int, engine: Patched, comparison: Measure,
           progress: Progress = list) -> None:
    """Measure a part's forms, choose (unless one is wanted), and find its sensitive layers.

    `progress` wraps the iteration over the layers.
    """
    part.trials = measure(part.name, part.graph, part.feeds, threads,
                          None if wanted is None else [FP32, wanted])
    part.form = wanted or choose(part.name, part.trials).form
    if part.form == FP32:
        return
    names = list(layers(part.graph))
    for name in progress(names):
        engine.put(part.name, part.quantized(other for other in names if other != name))
        part.shares[name] = share(comparison.measure(engine))


def write(source: Bundle, parts: Sequence[Part], keep: Mapping[str, Sequence[str]], folder: Path,
          facts: Mapping[str, Any]) -> Bundle:
    """Write the bundle with these layers of each part in fp32."""
    graphs = {p.name: p.quantized(keep[p.name]) for p in parts}
    return write_quantized(
        source, graphs, {p.name: p.form.dtype for p in parts}, folder, facts,
        others={p.name: pieces(source, p.name, graphs[p.name], p.form, p.feeds[::2], keep[p.name])
                for p in parts})


def sensitive(parts: Sequence[Part], spare: float) -> list[tuple[str, str]]:
    """Return the layers (part, name) to keep in fp32, the most sensitive first.

    A layer whose fp32 weights no longer fit into the `spare` bytes is passed over.
    """
    ranked = sorted(((s, p.name, name) for p in parts for name, s in p.shares.items()),
                    reverse=True)
    extra = {(p.name, name): FP32_EXTRA * count for p in parts
             for name, count in layers(p.graph).items()}
    taken = []
    for _, part, name in ranked:
        if extra[part, name] <= spare:
            spare -= extra[part, name]
            taken.append((part, name))
    return taken


def keep_sensitive(source: Bundle, parts: Sequence[Part], folder: Path, facts: Mapping[str, Any],
                   comparison: Measure) -> tuple[Bundle, dict[str, Any]]:
    """Keep sensitive layers in fp32 until chunks err `ENOUGH`, or the gate's size is reached.

    Returns the bundle, written to `folder`, and its measures.
    """
    def attempt(count: int) -> dict[str, Any]:
        keep = {p.name: [name for part, name in ranked[:count] if part == p.name] for p in parts}
        made = write(source, parts, keep, folder, facts)
        return {**comparison.measure(OnnxEngine(made)), 'size_ratio': size(made) / size(source),
                'forms': {p.name: str(p.form) for p in parts}, 'layers_in_fp32': keep}

    ranked: list[tuple[str, str]] = []
    best = attempt(0)
    ranked = sensitive(parts, (LIMITS['size_ratio'] - best['size_ratio']) * size(source))
    for count in KEPT:
        if share(best) <= ENOUGH or count > len(ranked):
            break
        best = min(best, attempt(count), key=share)
    return write(source, parts, best['layers_in_fp32'], folder, facts), best


def write_tensorrt(source: Bundle, feeds: Mapping[str, Sequence[Feed]], folder: Path,
                   facts: Mapping[str, Any], comparison: Measure) -> tuple[Bundle, dict[str, Any]]:
    """Write the bundle in TensorRT's 8-bit form; return it with its measures.

    These are of torch, which computes with modelopt's quantizers what the engines will compute.
    """
    quantized = qdq.quantize_policy(load_policy(source), {
        part: thin(given, FEEDS) for part, given in feeds.items()})
    networks = cast(Engine, TorchNetworks(quantized))
    made = write_quantized(source, qdq.qdq_graphs(quantized),
                           dict.fromkeys(feeds, qdq.DTYPE), folder, facts, networks)
    modules = networks_of(load_policy(source))
    return made, {**comparison.measure(networks), 'size_ratio': size(made) / size(source),
                  'forms': dict.fromkeys(feeds, qdq.DTYPE),
                  'layers_in_fp32': {part: qdq.kept(module) for part, module in modules.items()}}


def write_float(source: Bundle, feeds: Mapping[str, Sequence[Feed]], form: str, folder: Path,
                facts: Mapping[str, Any], comparison: Measure) -> tuple[Bundle, dict[str, Any]]:
    """Write the bundle with its denoiser in `fp8` or `nvfp4`; return it with its measures.

    These are of torch, which rounds as the GPU will.
    """
    policy = load_policy(source)
    inputs = graphs(policy)['denoiser'][1]
    rounded, high = floats.quantize_policy(policy, thin(feeds['denoiser'], FEEDS), list(inputs),
                                           form)
    networks = cast(Engine, TorchNetworks(rounded))
    made = write_quantized(
        source, {part: read_graph(source, part) for part in feeds} | {
            'denoiser': float_graph(rounded.denoiser, inputs, 'output', form)},
        dict.fromkeys(feeds, FP32.dtype) | {'denoiser': form}, folder, facts, networks)
    return made, {**comparison.measure(networks), 'size_ratio': size(made) / size(source),
                  'forms': {'denoiser': form}, 'layers_in_fp32': {'denoiser': high}}


def size(bundle: Bundle) -> int:
    """Return the bytes of weights and graphs."""
    return sum(entry['bytes'] for entry in bundle.files.values())
