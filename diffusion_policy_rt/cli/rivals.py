"""What `dprt eval` holds a policy against: floors, other samplers, a teacher, another run."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from diffusion_policy_rt.cli.common import add_floor_data
from diffusion_policy_rt.errors import DprtError
from diffusion_policy_rt.runtime.variants import VARIANTS, Variant

if TYPE_CHECKING:
    from diffusion_policy_rt.replay.evaluate import Evaluation
    from diffusion_policy_rt.replay.nearest import Demonstrations


def add_rivals(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_floor_data(parser)
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


def against(name: str, ours: list[dict], theirs: list[dict]) -> dict[str, Any]:
    """Print and return the paired difference to another run's episodes."""
    from diffusion_policy_rt.replay.compare import paired_difference

    result = paired_difference(ours, theirs)
    low, high = result['ci95']
    print(f'difference to {name}: {result["difference"]:+.3f} [{low:+.3f}, {high:+.3f}]')
    return result


def run_modes(args: argparse.Namespace, what: Evaluation) -> dict[str, Any]:
    """Draw chunks of policy and teacher at the same states; print and return what is kept."""
    from tqdm import tqdm

    from diffusion_policy_rt.engines.bundle import read_bundle
    from diffusion_policy_rt.replay import modes
    from diffusion_policy_rt.replay.evaluate import Evaluation

    if args.against or args.sheet or args.delay:
        raise DprtError('--modes runs no episodes: --against, --sheet and --delay do not apply')
    # another noise than the student's, or a bundle would agree with itself draw by draw
    teacher = Evaluation(args.modes, max(read_bundle(args.modes).spec.steps), args.engine,
                         noise_seed=args.noise_seed + 1)
    _, steps = modes.make_loop(what)
    seeds = range(args.seed, args.seed + args.episodes)
    states = list(tqdm(modes.search(teacher, seeds, args.workers), unit='state',
                       total=len(seeds), desc=args.modes))
    result = {**modes.compare(what, states, args.workers), 'steps': steps,
              'teacher_steps': teacher.steps, 'seed': args.seed}
    print(f'{args.policy}, {result["steps"]} steps: keeps {result["modes_kept"]} of '
          f'{result["modes"]} modes of {args.modes} at {result["teacher_steps"]} steps '
          f'({result["mode_coverage"]:.1%}), both in {result["both_kept"]:.1%} of '
          f'{result["states"]} states; the rarer way has {result["minority_share"]:.1%} of the '
          f'chunks, {result["teacher_minority_share"]:.1%} of the teacher\'s')
    return result
