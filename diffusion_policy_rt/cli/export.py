"""`dprt export`: a bundle written anew by this version."""

from __future__ import annotations

import argparse
from pathlib import Path

from diffusion_policy_rt.cli.common import extra, write_json
from diffusion_policy_rt.cli.quantize import refuse_quantized, tell_left_out

HELP = 'Write a bundle anew: today\'s graphs, and outputs to hold engines against.'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument('--policy', default='pusht', metavar='P',
                        help='fp32 bundle folder, or the name of a shipped one (default pusht)')
    parser.add_argument('--out', required=True, metavar='FOLDER',
                        help='the bundle to write; may be the folder of --policy')
    parser.add_argument('--checkpoint', metavar='DIR',
                        help='take the weights from a folder that NVIDIA modelopt exported')


def run(args: argparse.Namespace) -> None:
    """Export, and check the outputs."""
    with extra('exporting', 'train'):
        from diffusion_policy_rt.train.quantize.run import reexport
    from diffusion_policy_rt.engines.bundle import read_bundle

    bundle = read_bundle(args.policy)
    refuse_quantized(bundle)
    made = reexport(bundle, Path(args.out), Path(args.checkpoint) if args.checkpoint else None)
    tell_left_out(bundle, made)
    size = sum(entry['bytes'] for entry in made.files.values())
    print(f'{made.folder}: {size / 1e6:.1f} MB; next: dprt info {made.folder}')
    write_json(args.json, {'bundle': str(made.folder), 'sha256': made.digest, 'bytes': size})
