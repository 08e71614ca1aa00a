"""`dprt bench`: how long each part takes on this machine."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from diffusion_policy_rt.cli.common import extra, positive, provenance, table, write_json

HELP = 'Measure latency: of the denoiser, the encoder, a whole plan, or the node over topics.'
PARTS = ('denoiser', 'encoder', 'plan', 'node')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument('--what', choices=PARTS, help='what to measure (default: all but node)')
    parser.add_argument('--policy', default='pusht', metavar='P',
                        help='bundle folder, or the name of a shipped bundle (default pusht)')
    parser.add_argument('--size', choices=('small', 'base'), default='small',
                        help='base: the published 251-million-parameter network with random '
                             'weights, in place of --policy (needs torch)')
    parser.add_argument('--engine', action='append', metavar='E',
                        help='engine to measure; may be repeated (default: all installed)')
    parser.add_argument('--steps', type=positive, action='append', metavar='K',
                        help='network calls per plan; may be repeated (default: 1, 2, 4, 8)')
    parser.add_argument('--threads', type=positive, action='append', metavar='N',
                        help='threads; may be repeated (default: 1)')
    parser.add_argument('--repeats', type=positive, default=200, metavar='R',
                        help='measurements of each row, rows taking turns (default 200)')
    parser.add_argument('--seconds', type=positive, default=20, metavar='S',
                        help='node: how long to measure each image size (default 20)')


def run(args: argparse.Namespace) -> None:
    """Measure and print the table."""
    if args.what == 'node':
        from diffusion_policy_rt.cli.demo import use_own_domain
        from diffusion_policy_rt.share import use_large_image_profile
        use_own_domain()
        use_large_image_profile()
        from diffusion_policy_rt.replay.bench_node import bench_node
        rows = bench_node(args.policy, args.seconds, (args.engine or ['auto'])[0],
                          (args.steps or [1])[0])
    else:
        rows = bench_engines(args)
    print(table(rows))
    write_json(args.json, {'rows': rows, 'provenance': provenance()})


def bench_engines(args: argparse.Namespace) -> list[dict]:
    """Measure the engines on a trained bundle, or on the base network with random weights."""
    from diffusion_policy_rt.replay.bench import bench

    parts = (args.what,) if args.what else PARTS[:-1]
    options = (parts, args.engine, args.steps or [1, 2, 4, 8], args.threads or [1], args.repeats)
    if args.size == 'small':
        return bench(args.policy, *options)
    with extra('--size base', 'train'):
        from diffusion_policy_rt.train.base import write_base
    with tempfile.TemporaryDirectory() as folder:
        return bench(str(write_base(Path(folder) / 'base')), *options)
