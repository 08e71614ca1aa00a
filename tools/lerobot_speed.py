#!/usr/bin/env python3
"""LeRobot's own `generate_actions` beside ours, on the same weights, in turns of one process.

    pip install --no-deps lerobot==0.4.4 torchvision==0.28.0    # and what it imports
    tools/lerobot_speed.py --out DIR [--dims 512,1024,2048] [--turns 3] [--json FILE]

A policy of LeRobot's default configuration with random weights (DDIM of 10 steps) is written by
LeRobot, imported, and quantized: both networks, ungated, as `dprt bench --size base` does. What
stands in DIR is taken again. Told is the processor time of a chunk, one thread each: LeRobot's
over ours, turn by turn.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffusion_policy_rt.cli.common import provenance, table, write_json
from diffusion_policy_rt.engines.bundle import Bundle, read_bundle
from diffusion_policy_rt.engines.load import load_engine
from diffusion_policy_rt.replay.bench import planner
from diffusion_policy_rt.train.base import quantize_base
from diffusion_policy_rt.train.importing.assemble import Robot, write
from diffusion_policy_rt.train.importing.lerobot import read_lerobot

sys.path.insert(0, str(Path(__file__).parent.parent / 'test/golden'))
from make_lerobot import prepare_imports  # noqa: E402

IMAGE, STATE, ACTION = 'observation.image', 'observation.state', 'action'
SIZE, VALUES, STEPS, CALLS = 96, 2, 10, 3
"""Pixels of the image, values of state and action, calls of DDIM, and our chunks per turn."""


def statistics() -> dict[str, dict[str, torch.Tensor]]:
    """Return statistics that a processor can be made of; nothing depends on them."""
    def of(size: tuple[int, ...]) -> dict[str, torch.Tensor]:
        return {'mean': torch.zeros(size), 'std': torch.ones(size), 'min': -torch.ones(size),
                'max': torch.ones(size)}

    return {IMAGE: of((3, 1, 1)), STATE: of((VALUES,)), ACTION: of((VALUES,))}


def write_checkpoint(folder: Path, dims: list[int]) -> None:
    """Write the policy as LeRobot does."""
    from lerobot.configs.types import FeatureType, PolicyFeature
    from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
    from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy
    from lerobot.policies.diffusion.processor_diffusion import make_diffusion_pre_post_processors

    torch.manual_seed(0)
    config = DiffusionConfig(
        input_features={IMAGE: PolicyFeature(FeatureType.VISUAL, (3, SIZE, SIZE)),
                        STATE: PolicyFeature(FeatureType.STATE, (VALUES,))},
        output_features={ACTION: PolicyFeature(FeatureType.ACTION, (VALUES,))}, device='cpu',
        down_dims=tuple(dims), noise_scheduler_type='DDIM', num_inference_steps=STEPS)
    policy = DiffusionPolicy(config).eval()
    for part in (policy, *make_diffusion_pre_post_processors(config, statistics())):
        part.save_pretrained(folder)


def theirs(folder: Path) -> Callable[[], object]:
    """Return LeRobot's call that makes a chunk of two frames."""
    from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy

    policy = DiffusionPolicy.from_pretrained(folder).eval()
    n_obs = policy.config.n_obs_steps
    batch = {'observation.images': torch.rand(1, n_obs, 1, 3, SIZE, SIZE),
             STATE: torch.rand(1, n_obs, VALUES)}

    def call() -> object:
        with torch.inference_mode():
            return policy.diffusion.generate_actions(batch)

    return call


def bundles(folder: Path, dims: list[int]) -> dict[str, Bundle]:
    """Return the imported bundle and the quantized one, made where they do not stand."""
    if not (folder / 'checkpoint').is_dir():
        write_checkpoint(folder / 'checkpoint', dims)
    if not (folder / 'imported').is_dir():
        write(read_lerobot(folder / 'checkpoint'), Robot(10.0, steps=(1, STEPS)),
              folder / 'imported', {})
    if not (folder / 'int8').is_dir():
        quantize_base(read_bundle(folder / 'imported'), folder / 'int8', 'dynamic')
    return {'imported, fp32': read_bundle(folder / 'imported'),
            'imported, int8': read_bundle(folder / 'int8')}


def measure(calls: dict[str, Callable[[], object]], turns: int) -> dict[str, np.ndarray]:
    """Return [turn] seconds of the processor per chunk, by name; the first turn is not told."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(turns + 1):
        for number, (name, call) in enumerate(calls.items()):
            count = CALLS if number else 1
            began = time.process_time()
            for _ in range(count):
                call()
            taken[name].append((time.process_time() - began) / count)
    return {name: np.array(seconds[1:]) for name, seconds in taken.items()}


def row(name: str, seconds: np.ndarray, reference: np.ndarray) -> dict[str, Any]:
    """Return what is told of a call."""
    ratios = reference / seconds
    return {'what': name, 'cpu_ms': 1e3 * float(np.median(seconds)),
            'ratio': float(np.median(ratios)), 'least': float(ratios.min()),
            'most': float(ratios.max())}


def main() -> None:
    """Make what lacks, measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--out', required=True, type=Path, metavar='DIR')
    parser.add_argument('--dims', default='512,1024,2048', metavar='A,B,C',
                        help='widths of the U-Net (default LeRobot\'s own)')
    parser.add_argument('--turns', type=int, default=3, metavar='N')
    parser.add_argument('--json', metavar='FILE')
    args = parser.parse_args()
    kept = prepare_imports()
    torch.set_num_threads(1)
    rng, lerobot = np.random.default_rng(0), f'LeRobot, fp32, {STEPS} steps'
    calls = {}
    for name, bundle in bundles(args.out, json.loads(f'[{args.dims}]')).items():
        engine = load_engine(bundle, 'onnxruntime', 1)
        calls |= {f'{name}, {steps} steps': planner(bundle.spec, engine, steps, rng)
                  for steps in (STEPS, 1)}
    taken = measure({lerobot: theirs(args.out / 'checkpoint'), **calls}, args.turns)
    rows = [row(name, seconds, taken[lerobot]) for name, seconds in taken.items()]
    print(table(rows))
    print(f'load {os.getloadavg()[0]:.1f}')
    write_json(args.json, {'rows': rows, 'load': os.getloadavg(), 'provenance': provenance()})
    del kept


if __name__ == '__main__':
    main()
