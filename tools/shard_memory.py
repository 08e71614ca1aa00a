#!/usr/bin/env python3
"""How much memory each process takes to build a transformer and its average, sharded.

    torchrun --nproc-per-node 2 tools/shard_memory.py --params 100M [--whole]

`--whole` builds the network whole in each process first, as it was done before blocks were sharded
while they are built.
"""

from __future__ import annotations

import argparse
import contextlib
import json

import torch

from diffusion_policy_rt.engines.timing import peak_rss
from diffusion_policy_rt.model.policy import make_denoiser
from diffusion_policy_rt.train.base import base_spec, transformer
from diffusion_policy_rt.train.distributed import Strategy, join
from diffusion_policy_rt.train.ema import EMA
from diffusion_policy_rt.train.plan import parse_count
from diffusion_policy_rt.train.sharding import twin


def main() -> None:
    """Build, and print one line of JSON per process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--params', default='100M')
    parser.add_argument('--whole', action='store_true')
    args = parser.parse_args()
    torch.set_num_threads(1)
    world, spec = join(Strategy(shard=True)), base_spec()
    config = transformer('transformer', parse_count(args.params))
    before = peak_rss()
    with contextlib.nullcontext() if args.whole else world.building():
        net = make_denoiser(spec, config)
    if args.whole:
        average = EMA(net, 0.99).module
        world.place(net)
        world.place(average, trained=False)
    else:
        world.place(net)
        with torch.device('meta'):
            bare = make_denoiser(spec, config)
        average = twin(net, world.place(bare, trained=False))
    peak, kept = peak_rss(), sum(p.to_local().nbytes for m in (net, average)
                                 for p in m.parameters())
    print(json.dumps({'rank': world.rank, 'processes': world.size,
                      'network_bytes': sum(4 * p.numel() for p in net.parameters()),
                      'kept_bytes': kept, 'peak_above_start_bytes': peak - before}))
    world.leave()


if __name__ == '__main__':
    main()
