"""`dprt cache`: which branches of the denoiser may stand between the calls of a plan."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffusion_policy_rt.cli.common import (
    add_data, add_seed, extra, natural, positive, provenance, write_json)
from diffusion_policy_rt.cli.quantize import refuse_quantized
from diffusion_policy_rt.errors import DprtError

if TYPE_CHECKING:
    import numpy as np

    from diffusion_policy_rt.engines.bundle import Bundle

HELP = ('Find which parts of the denoiser may keep their outputs between the network calls of a '
        'plan of many steps, and write the bundle with that schedule and what it costs.')
LEAST_STEPS = 4
"""Of fewer calls too few are left to keep anything for."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument('--policy', default='pusht', metavar='P',
                        help='fp32 bundle folder, or the name of a shipped one (default pusht)')
    add_data(parser, 'demonstrations: the search and the comparison see their images')
    parser.add_argument('--out', required=True, metavar='FOLDER', help='the bundle to write')
    parser.add_argument('--recipe', default='', metavar='R',
                        help='recipe that names the data\'s streams (default: the bundle\'s own)')
    parser.add_argument('--steps', type=positive, default=16, metavar='K',
                        help='network calls per plan, served by the policy (default 16)')
    parser.add_argument('--budget', type=positive, default=0, metavar='S',
                        help='calls in which each branch is computed (default: half of --steps)')
    parser.add_argument('--union', type=natural, default=0, metavar='N',
                        help='branches, those that drift most, to be computed whenever one behind '
                             'them is, beyond the budget (default 0)')
    parser.add_argument('--jerk', type=float, default=0.0, metavar='R',
                        help='in place of --budget and --union: take the schedule of most saving '
                             'whose plans\' jerk is at most R times that without, such as 1.05, '
                             'by playing candidates under the observations of the search')
    parser.add_argument('--observations', type=positive, default=64, metavar='N',
                        help='observations of the search, and others to compare chunks under '
                             '(default 64)')
    add_seed(parser)


def run(args: argparse.Namespace) -> None:
    """Search, write, measure."""
    with extra('searching for blocks to keep', 'train'):
        from diffusion_policy_rt.train.quantize.observations import (
            read_observations, stream_recipe)
    from diffusion_policy_rt.engines.bundle import read_bundle

    bundle = read_bundle(args.policy)
    refuse_quantized(bundle)
    if args.steps < LEAST_STEPS:
        raise DprtError(f'--steps {args.steps}: blocks are kept between the calls of plans of '
                        f'{LEAST_STEPS} steps or more')
    if args.jerk and (args.budget or args.union or not args.jerk >= 1):
        raise DprtError(f'--jerk {args.jerk:g}: give a ratio of 1 or more, without --budget and '
                        '--union, which it finds by itself')
    bundle.spec.schedule(args.steps)
    seen = read_observations(bundle, stream_recipe(bundle, args.recipe), args.data,
                             2 * args.observations, args.seed)
    found = search(bundle, seen[::2], args)
    made, measured = write(bundle, seen[1::2], found, args)
    print('\n'.join(f'call {call:3d}  {fresh}' for call, fresh in enumerate(found['fresh'])))
    print(f'{made.folder}: {measured["saving"]:.2f} times fewer branches computed; chunks differ '
          f'by {measured["chunk_rmse"]:.4f} of the range (rms); next: dprt eval --policy '
          f'{made.folder} --steps {args.steps} --blocks')
    write_json(args.json, {'bundle': str(made.folder), 'sha256': made.digest, 'steps': args.steps,
                           **found, **measured, 'provenance': provenance()})


def search(bundle: Bundle, seen: list[dict[str, np.ndarray]],
           args: argparse.Namespace) -> dict[str, Any]:
    """Return the schedule as the manifest has it."""
    from diffusion_policy_rt.engines.load import load_engine
    from diffusion_policy_rt.engines.torch_engine import load_policy
    from diffusion_policy_rt.train import block_search, blocks

    sigmas = bundle.spec.schedule(args.steps).sigmas
    rehearsal = blocks.Rehearsal(load_policy(bundle), blocks.conditions(
        bundle.spec, load_engine(bundle, 'onnxruntime'), seen), args.steps, args.seed)
    if args.jerk:
        return block_search.smooth(rehearsal, sigmas, args.jerk).to_json()
    _, given = rehearsal.play(rehearsal.all_computed)
    return blocks.find(given, sigmas, args.budget or args.steps // 2, args.union).to_json()


def write(bundle: Bundle, seen: list[dict[str, np.ndarray]], found: dict[str, Any],
          args: argparse.Namespace) -> tuple[Bundle, dict[str, Any]]:
    """Write the bundle with the schedule, and what the chunks lose to it in its quality."""
    from diffusion_policy_rt.engines.bundle import record_quality
    from diffusion_policy_rt.engines.load import load_engine
    from diffusion_policy_rt.replay.fidelity import cost_name, cost_of_blocks
    from diffusion_policy_rt.train.quantize.run import reexport

    schedules = {**bundle.blocks, str(args.steps): found}
    made = reexport(bundle, Path(args.out), blocks=schedules)
    measured = cost_of_blocks(made, load_engine(made, 'onnxruntime'), seen, args.seed, args.steps)
    return record_quality(made, {cost_name(args.steps): measured}), measured
