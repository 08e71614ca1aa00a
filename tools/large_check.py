#!/usr/bin/env python3
"""Whether a denoiser of any size gives in ONNX Runtime what it gives in torch.

    tools/large_check.py --params 700M --out DIR [--denoiser transformer|dit] [--int8]

Writes a bundle with random weights to DIR/fp32, with --int8 its dynamic int8 form to DIR/int8, and
holds the raw network's outputs against torch's: of the denoiser in its parts, as it is run, and as
one graph. Each stage is a process of its own, whose time and most memory are told.

Then `dprt bench --what denoiser --policy DIR/fp32 --engine onnxruntime` tells how fast it is.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffusion_policy_rt.engines.bundle import WEIGHTS, read_bundle
from diffusion_policy_rt.engines.onnx_engine import OnnxEngine
from diffusion_policy_rt.engines.timing import peak_rss
from diffusion_policy_rt.engines.torch_engine import TorchNetworks, load_policy
from diffusion_policy_rt.spec import PolicySpec
from diffusion_policy_rt.train.base import base_spec, quantize_base, transformer, write_base
from diffusion_policy_rt.train.plan import parse_count

CALLS = 4
"""Random inputs that outputs are compared under."""


def write(out: Path, kind: str, params: float) -> dict[str, Any]:
    """Write the bundle; tell its sizes."""
    bundle = write_base(out / 'fp32', base_spec(), denoiser=transformer(kind, params))
    return {'weights_bytes': bundle.path(WEIGHTS).stat().st_size}


def quantize(out: Path) -> dict[str, Any]:
    """Write the int8 form; tell its size."""
    made = quantize_base(read_bundle(out / 'fp32'), out / 'int8', 'dynamic')
    return {'weights_bytes': made.path(WEIGHTS).stat().st_size}


def torch_outputs(out: Path) -> dict[str, Any]:
    """Keep torch's outputs; tell how large they are."""
    bundle = read_bundle(out / 'fp32')
    made = outputs(TorchNetworks(load_policy(bundle)), bundle.spec)
    np.save(out / 'torch.npy', made)
    return {'output_rms': float(np.sqrt(np.square(made).mean()))}


def compare(out: Path, form: str, whole: bool) -> dict[str, Any]:
    """Tell the largest difference to torch's outputs, over the largest of these."""
    bundle, expected = read_bundle(out / form), np.load(out / 'torch.npy')
    made = outputs(OnnxEngine(bundle, whole=whole), bundle.spec)
    return {'error': float(np.abs(made - expected).max() / np.abs(expected).max())}


def outputs(networks: TorchNetworks | OnnxEngine, spec: PolicySpec) -> np.ndarray:
    """Return the raw denoiser's outputs [CALLS, H, A] under inputs that never change."""
    rng = np.random.RandomState(0)
    return np.stack([networks.network(
        rng.standard_normal((spec.horizon, len(spec.action))).astype(np.float32),
        rng.uniform(0, 100), rng.standard_normal(spec.cond_dim).astype(np.float32))
        for _ in range(CALLS)])


def alone(call: Callable[..., dict[str, Any]], *given: object) -> dict[str, Any]:
    """Call it in a process of its own; tell its result, time and most memory as well."""
    with multiprocessing.get_context('spawn').Pool(1) as pool:
        return pool.apply(_measured, (call, given))


def _measured(call: Callable[..., dict[str, Any]], given: Iterable[object]) -> dict[str, Any]:
    torch.set_num_threads(1)
    found = call(*given)
    return {**found, 'cpu_s': time.process_time(), 'peak_rss_bytes': peak_rss()}


def main() -> None:
    """Go through the stages, and print one line of JSON for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--params', default='700M')
    parser.add_argument('--denoiser', choices=('transformer', 'dit'), default='transformer')
    parser.add_argument('--out', type=Path, required=True)
    parser.add_argument('--int8', action='store_true')
    args = parser.parse_args()
    stages: list[tuple[Any, ...]] = [(write, args.denoiser, parse_count(args.params)),
                                     (torch_outputs,), (compare, 'fp32', False),
                                     (compare, 'fp32', True)]
    if args.int8:
        stages += [(quantize,), (compare, 'int8', False)]
    for call, *given in stages:
        told = {'stage': ' '.join(map(str, (call.__name__, *given)))}
        print(json.dumps(told | alone(call, args.out, *given)), flush=True)


if __name__ == '__main__':
    main()
