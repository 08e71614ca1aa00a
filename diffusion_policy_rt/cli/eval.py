"""`dprt eval`: closed-loop episodes on a simulated robot, Push-T by its published protocol."""

from __future__ import annotations

import argparse
import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffusion_policy_rt.cli.common import (
    add_policy, natural, positive, provenance, read_json, write_json)
from diffusion_policy_rt.cli.rivals import (
    add_rivals, against, demonstrations, run_modes, variant)
from diffusion_policy_rt.errors import DprtError
from diffusion_policy_rt.sim.tasks import TASKS

if TYPE_CHECKING:
    from diffusion_policy_rt.replay.episode import Episode
    from diffusion_policy_rt.replay.evaluate import Evaluation

HELP = 'Measure a policy in closed loop in simulation: score and success with their intervals.'
FIRST_TEST_SEED = 100_000
PICTURES = 12
"""Of an episode on a contact sheet, beside that of its end."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_policy(parser, FIRST_TEST_SEED)
    parser.add_argument('--episodes', type=positive, default=200, metavar='N',
                        help='episode i starts from seed S + i (default 200)')
    parser.add_argument('--task', choices=tuple(TASKS), default='pusht',
                        help='the simulated robot of --policy random; a bundle tells its own '
                             '(default pusht)')
    parser.add_argument('--delay', type=natural, default=0, metavar='D',
                        help='control steps of latency to charge (default 0)')
    parser.add_argument('--execute', type=natural, default=0, metavar='A',
                        help='actions executed of each chunk (default: the bundle\'s)')
    parser.add_argument('--noise-seed', type=natural, default=0, metavar='S',
                        help='seed of the policy\'s own noise (default 0)')
    parser.add_argument('--workers', type=positive, default=os.cpu_count() or 1, metavar='W',
                        help='processes (default: one per core)')
    parser.add_argument('--record', action='store_true',
                        help='keep the figures in the bundle, as its measured quality')
    parser.add_argument('--sheet', metavar='FILE.png', help='write a contact sheet of 8 episodes')
    parser.add_argument('--blocks', action='store_true',
                        help='keep branches of the denoiser between the calls of a plan, as '
                             'dprt cache found')
    parser.add_argument('--tiles', action='store_true',
                        help='do not encode again what did not change in the cameras\' images; '
                             'changes no action')
    add_rivals(parser)


def run(args: argparse.Namespace) -> None:
    """Run the episodes, or the states of --modes, and print the figures."""
    from diffusion_policy_rt.replay import evaluate

    if args.policy != evaluate.RANDOM:
        check_seed(args.seed)
    what = evaluate.Evaluation(args.policy, args.steps, args.engine, args.delay, args.execute,
                               args.noise_seed, 0, variant(args), demonstrations(args),
                               args.task, args.blocks, args.threads, args.tiles)
    if args.sheet:
        steps = evaluate.simulated(what).max_steps
        what = dataclasses.replace(what, picture_every=steps // PICTURES)
    if args.tiles and args.policy in (evaluate.RANDOM, evaluate.NEAREST):
        raise DprtError(f'--tiles are of a policy\'s cameras; --policy {args.policy} has none')
    if args.record and (args.sampler or args.modes or args.blocks):
        raise DprtError('--record keeps what the bundle\'s own schedule reaches; --sampler, '
                        '--blocks and --modes do not apply')
    result = run_modes(args, what) if args.modes else run_episodes(args, what)
    write_json(args.json, {**result, 'provenance': provenance()})


def check_seed(first: int) -> None:
    """Raise DprtError for the demonstrations' own seeds."""
    if first < 206:
        raise DprtError(f'seeds 0..205 are the demonstrations\' own; use --seed {FIRST_TEST_SEED}')


def run_episodes(args: argparse.Namespace, what: Evaluation) -> dict[str, Any]:
    """Run the episodes, print their figures and return them."""
    from diffusion_policy_rt.replay import evaluate

    controller, steps, engine = evaluate.make_controller(what)
    theirs = read_json(args.against, 'per_episode') if args.against else None
    episodes = play(args, what)
    outcomes = [evaluate.outcome(episode) for episode in episodes]
    result = {**evaluate.summarise(outcomes), 'steps': steps, 'engine': engine,
              'delay': args.delay, 'seed': args.seed, 'schedule': schedule(controller, steps)}
    print(line(args.policy, result))
    if args.record:
        record(args.policy, evaluate.simulated(what).name, result)
    if theirs is not None:
        result['against'] = against(args.against, result['per_episode'], theirs)
    if args.sheet:
        from diffusion_policy_rt.replay.pictures import write_sheet
        write_sheet(Path(args.sheet), episodes[:8])
    return result


def play(args: argparse.Namespace, what: Evaluation) -> list[Episode]:
    """Return the episodes, run behind a progress bar."""
    from tqdm import tqdm

    from diffusion_policy_rt.replay.evaluate import evaluate

    seeds, episodes = range(args.seed, args.seed + args.episodes), []
    with tqdm(total=len(seeds), unit='episode', desc=args.policy) as bar:
        for episode in evaluate(what, seeds, args.workers):
            episodes.append(episode)
            bar.update()
            bar.set_postfix(score=f'{sum(e.max_coverage for e in episodes) / len(episodes):.3f}')
    return episodes


def schedule(controller: Any, steps: int) -> dict[str, Any] | None:
    """Return the schedule that a policy was sampled by; None for a floor."""
    loop = getattr(controller, 'loop', None)
    return dataclasses.asdict(loop.spec.schedule(steps)) if loop is not None else None


def record(policy: str, task: str, result: dict) -> None:
    """Keep the figures in the bundle, under the steps and the delay they were measured with."""
    from diffusion_policy_rt.engines.bundle import read_bundle, record_quality

    kept = ('episodes', 'seed', 'mean_max_coverage', 'ci95', 'success_rate', 'success_ci95',
            'jerk', 'engine')
    name = f'{task}, {result["steps"]} steps, delay {result["delay"]}'
    record_quality(read_bundle(policy), {name: {key: result[key] for key in kept}})


def line(policy: str, result: dict) -> str:
    """Return the figures in one line."""
    (low, high), (worse, better) = result['ci95'], result['success_ci95']
    return (f'{policy}: mean max coverage {result["mean_max_coverage"]:.3f} '
            f'[{low:.3f}, {high:.3f}], success {result["success_rate"]:.1%} '
            f'[{worse:.1%}, {better:.1%}], {result["episodes"]} episodes, '
            f'{result["steps"]} steps, {result["engine"]}'
            + (f', jump at seams {seams["ratio"]:.2f} of that within chunks (99th percentiles)'
               if (seams := result['seams']) else ''))
