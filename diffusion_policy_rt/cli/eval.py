"""`dprt eval`: closed-loop episodes by the published Push-T protocol."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from diffusion_policy_rt.cli.common import (
    add_policy, natural, positive, provenance, write_json)
from diffusion_policy_rt.errors import DprtError

HELP = 'Measure a policy in closed loop on Push-T: score and success with their intervals.'
FIRST_TEST_SEED = 100_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_policy(parser)
    parser.set_defaults(seed=FIRST_TEST_SEED)
    parser.add_argument('--episodes', type=positive, default=200, metavar='N',
                        help='episode i starts from seed S + i (default 200)')
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


def run(args: argparse.Namespace) -> None:
    """Run the episodes and print the figures."""
    from tqdm import tqdm

    from diffusion_policy_rt.replay import evaluate

    if args.seed < 206 and args.policy != evaluate.RANDOM:
        raise DprtError(f'seeds 0..205 are the demonstrations\' own; use --seed {FIRST_TEST_SEED}')
    what = evaluate.Evaluation(args.policy, args.steps, args.engine, args.delay, args.execute,
                               args.noise_seed, picture_every=25 if args.sheet else 0)
    _, steps, engine = evaluate.make_controller(what)
    seeds = range(args.seed, args.seed + args.episodes)
    workers = min(args.workers, args.episodes)
    episodes = []
    with tqdm(total=len(seeds), unit='episode', desc=args.policy) as bar:
        for episode in evaluate.evaluate(what, seeds, workers):
            episodes.append(episode)
            bar.update()
            bar.set_postfix(score=f'{sum(e.max_coverage for e in episodes) / len(episodes):.3f}')
    result = {**evaluate.summarise(episodes), 'steps': steps, 'engine': engine,
              'delay': args.delay, 'seed': args.seed, 'provenance': provenance()}
    print(line(args.policy, result))
    if args.record:
        record(args.policy, result)
    if args.sheet:
        from diffusion_policy_rt.replay.pictures import write_sheet
        write_sheet(Path(args.sheet), episodes[:8])
    write_json(args.json, result)


def record(policy: str, result: dict) -> None:
    """Keep the figures in the bundle, under the steps and the delay they were measured with."""
    from diffusion_policy_rt.engines.bundle import read_bundle, record_quality

    kept = ('episodes', 'seed', 'mean_max_coverage', 'ci95', 'success_rate', 'success_ci95',
            'jerk', 'engine')
    name = f'pusht, {result["steps"]} steps, delay {result["delay"]}'
    record_quality(read_bundle(policy), {name: {key: result[key] for key in kept}})


def line(policy: str, result: dict) -> str:
    """Return the figures in one line."""
    (low, high), (worse, better) = result['ci95'], result['success_ci95']
    return (f'{policy}: mean max coverage {result["mean_max_coverage"]:.3f} '
            f'[{low:.3f}, {high:.3f}], success {result["success_rate"]:.1%} '
            f'[{worse:.1%}, {better:.1%}], {result["episodes"]} episodes, '
            f'{result["steps"]} steps, {result["engine"]}')
