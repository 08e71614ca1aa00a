"""Options of `dprt eval` for what a policy is held against: floors, samplers, a teacher, a run."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from diffusion_policy_rt.errors import DprtError
from diffusion_policy_rt.runtime.variants import VARIANTS, Variant

if TYPE_CHECKING:
    from diffusion_policy_rt.replay.nearest import Demonstrations


def add_rivals(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument('--data', metavar='DIR',
                        help='Push-T demonstrations; for --policy nearest, which replays them')
    parser.add_argument('--sampler', choices=VARIANTS,
                        help='sample otherwise than the bundle says, in any --steps')
    parser.add_argument('--start', type=float, default=0.0, metavar='SIGMA',
                        help='first noise level of --sampler (default: its own)')
    parser.add_argument('--noise-scale', type=float, metavar='G',
                        help='factor of the fresh noise of --sampler, 0..1 (default: its own)')
    parser.add_argument('--against', metavar='FILE.json',
                        help='also tell the paired difference to this --json of the same seeds')
    parser.add_argument('--modes', metavar='TEACHER',
                        help='instead of episodes: the share of this bundle\'s modes, at its '
                             'most steps, that the policy keeps; over seeds S..S + N')


def variant(args: argparse.Namespace) -> Variant | None:
    """Return the sampler that was asked for in place of the bundle's schedule."""
    if args.sampler:
        return Variant(args.sampler, args.start, args.noise_scale)
    if args.start or args.noise_scale is not None:
        raise DprtError('--start and --noise-scale belong to --sampler')
    return None


def demonstrations(args: argparse.Namespace) -> Demonstrations | None:
    """Read --data, where it was given."""
    if not args.data:
        return None
    from diffusion_policy_rt.replay.nearest import Demonstrations
    from diffusion_policy_rt.train.data import read_dataset

    data = read_dataset(args.data, {name: (name,) for name in ('keypoint', 'state', 'action')})
    return Demonstrations(data.streams['keypoint'], data.streams['state'][:, :2],
                          data.streams['action'], data.episode_ends)
