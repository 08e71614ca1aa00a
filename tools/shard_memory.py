#!/usr/bin/env python3
"""How much memory each process takes to build what it trains, sharded.

    torchrun --nproc-per-node 2 tools/shard_memory.py --params 100M [--whole]
    torchrun --nproc-per-node 2 tools/shard_memory.py --teacher P --data DIR [--sets N]

The first builds a transformer and its average; `--whole` builds the network whole in each process
first, as it was done before blocks were sharded while they are built. The second builds all that
`dprt distill` trains: teacher, student, its average, and the critic where the method has one; and
samples the teacher under N observations, as students are compared with it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from diffusion_policy_rt.engines.bundle import read_bundle
from diffusion_policy_rt.engines.timing import peak_rss
from diffusion_policy_rt.model.policy import make_denoiser
from diffusion_policy_rt.train.base import base_spec, transformer
from diffusion_policy_rt.train.distill.recipe import load_distill_recipe
from diffusion_policy_rt.train.distill.run import Distillation
from diffusion_policy_rt.train.distill.trainer import DistillTrainer
from diffusion_policy_rt.train.distributed import Strategy, World, join
from diffusion_policy_rt.train.ema import EMA
from diffusion_policy_rt.train.plan import parse_count
from diffusion_policy_rt.train.sharding import twin


def build(args: argparse.Namespace, world: World) -> list[nn.Module]:
    """Build a network and its average."""
    spec, config = base_spec(), transformer('transformer', parse_count(args.params))
    with contextlib.nullcontext() if args.whole else world.building():
        net = make_denoiser(spec, config)
    if args.whole:
        average = EMA(net, 0.99).module
        world.place(average, trained=False)
        return [world.place(net), average]
    world.place(net)
    with torch.device('meta'):
        bare = make_denoiser(spec, config)
    return [net, twin(net, world.place(bare, trained=False))]


def build_distillation(args: argparse.Namespace, world: World) -> list[nn.Module]:
    """Build what a distillation trains."""
    recipe = load_distill_recipe(f'distill_{args.method.replace("-", "_")}', args.method)
    recipe = replace(recipe, train=replace(recipe.train, validation_sets=args.sets))
    with tempfile.TemporaryDirectory() as folder:
        run = Distillation(read_bundle(args.teacher), recipe, [args.data], Path(folder), 0, world)
        made = DistillTrainer(run, recipe.train, world, 0, Path(folder) / 'none.ckpt', 'none')
    critic = [made.loss.critic] if made.loss.critic is not None else []
    return [made.module, made.ema.module, run.teacher.denoiser, *critic]


def main() -> None:
    """Build, and print one line of JSON per process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--params', default='100M')
    parser.add_argument('--whole', action='store_true')
    parser.add_argument('--teacher')
    parser.add_argument('--data')
    parser.add_argument('--method', default='onedp-s')
    parser.add_argument('--sets', type=int, default=48)
    args = parser.parse_args()
    torch.set_num_threads(1)
    world, before = join(Strategy(shard=True)), peak_rss()
    networks = (build_distillation if args.teacher else build)(args, world)
    print(json.dumps({
        'rank': world.rank, 'processes': world.size,
        'network_bytes': sum(4 * p.numel() for p in networks[0].parameters()),
        'kept_bytes': sum(p.to_local().nbytes for net in networks for p in net.parameters()),
        'peak_above_start_bytes': peak_rss() - before}))
    world.leave()


if __name__ == '__main__':
    main()
