"""`dprt plan`: what of a large transformer fits on which GPUs, before one is rented."""

from __future__ import annotations

import argparse
from itertools import product
from typing import Any

from diffusion_policy_rt.cli.common import extra, positive, table, write_json

HELP = 'Tell what training a transformer of a given size needs of each GPU, and how fast it is.'
KINDS = ('weights', 'gradients', 'moments', 'average', 'activations', 'gathered', 'total')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument('--params', required=True, metavar='N', help='parameters: 300M, 20B, ...')
    parser.add_argument('--gpus', required=True, metavar='NxGB',
                        help='number of GPUs and memory of each, as in 8x80GB')
    parser.add_argument('--batch', type=positive, default=256, metavar='B',
                        help='samples per step, over all GPUs (default 256)')
    parser.add_argument('--accumulate', type=positive, default=1, metavar='N',
                        help='parts of a batch, one after the other (default 1)')
    parser.add_argument('--horizon', type=positive, default=16, metavar='H',
                        help='actions in a chunk (default 16)')
    parser.add_argument('--distill', action='store_true',
                        help='with a teacher and a critic beside the student')


def run(args: argparse.Namespace) -> None:
    """Compute and print the table."""
    with extra('plan', 'train'):
        from diffusion_policy_rt.train.plan import (
            SOURCES, Use, memory, parse_count, parse_gpus, peak_of, shape_of, step_seconds)

    gpus, size = parse_gpus(args.gpus)
    shape, (name, peak) = shape_of(parse_count(args.params), args.horizon), peak_of(size)
    rows: list[dict[str, Any]] = []
    for precision, shard, recompute in product(
            ('float32', 'bfloat16'), (False, True), (False, True)):
        use = Use(gpus, args.batch, shard, precision, args.accumulate, recompute, args.distill)
        used = memory(shape, use)
        rows.append({
            'precision': precision, 'shard': shard, 'recompute': recompute,
            **{f'{kind}_gb': round(used[kind] / 1e9, 2) for kind in KINDS},
            'fits': used['total'] < 0.92 * size,  # the rest is the driver's and fragments
            'samples_per_s': round(args.batch / step_seconds(shape, use, peak), 1)})
    print(f'{shape.parameters / 1e9:.3g}B parameters: width {shape.width}, {shape.layers} layers, '
          f'{shape.heads} heads; {gpus} x {name}, at most\n{table(rows)}')
    for what, source in SOURCES.items():
        print(f'{what}: {source}')
    write_json(args.json, {'rows': rows, 'parameters': shape.parameters, 'width': shape.width,
                           'layers': shape.layers, 'heads': shape.heads, 'gpu': name,
                           'sources': SOURCES})
