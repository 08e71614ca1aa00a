"""`dprt expert`: demonstrations of a simulated robot, by search or by rules."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from diffusion_policy_rt.cli.common import (
    add_seed, extra, natural, positive, provenance, write_json)
from diffusion_policy_rt.cli.eval import FIRST_TEST_SEED
from diffusion_policy_rt.errors import DprtError

if TYPE_CHECKING:
    from diffusion_policy_rt.train.expert.collect import Collecting

HELP = ('Collect demonstrations: of Push-T by trying a policy\'s own proposals out in the '
        'simulator, of the arm by rules that know its true state.')
FIRST_SEED = 400_000
LAST_TEST_SEED = 399_999
NEXT = {'pusht': '--data DEMONSTRATIONS', 'arm': '--recipe arm_small'}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument('--task', choices=('pusht', 'arm'), default='pusht',
                        help='the simulated robot (default pusht)')
    parser.add_argument('--policy', metavar='P',
                        help='pusht: bundle whose chunks are searched (default pusht); arm: '
                             'bundle that drives before the expert takes over (default none)')
    parser.add_argument('--out', required=True, metavar='DIR',
                        help='folder of the data set; a collection that stands there is resumed')
    parser.add_argument('--episodes', type=positive, default=600, metavar='N',
                        help='episodes run; those that succeed are kept (default 600)')
    parser.add_argument('--first', type=natural, default=FIRST_SEED, metavar='S',
                        help=f'episode i starts from seed S + i (default {FIRST_SEED})')
    parser.add_argument('--starts', choices=('published', 'anywhere'),
                        default='published',
                        help='as the evaluation\'s episodes start, or anywhere: pusht with the '
                             'block anywhere, walls included, arm after a slip beside the can '
                             '(default published)')
    parser.add_argument('--workers', type=positive, default=os.cpu_count() or 1, metavar='W',
                        help='processes (default: one per core)')
    add_seed(parser, 1)


def run(args: argparse.Namespace) -> None:
    """Collect what is missing, then write the data set of the successes."""
    with extra('the expert', 'train'):
        from tqdm import tqdm

        from diffusion_policy_rt.train.expert.store import Store

    if args.first + args.episodes > FIRST_TEST_SEED and args.first <= LAST_TEST_SEED:
        raise DprtError(f'seeds {FIRST_TEST_SEED}..{LAST_TEST_SEED} are for tests; '
                        f'use --first {FIRST_SEED}')
    seeds = range(args.first, args.first + args.episodes)
    store = Store(Path(args.out), collection(args))
    with tqdm(total=len(seeds), unit='episode', desc='expert') as bar:
        for _ in store.collect(seeds, args.workers):
            bar.update()
    facts = store.write(seeds)
    print(f'{facts["file"]}: {facts["kept"]} of {len(seeds)} episodes succeeded, '
          f'{facts["rows"]} rows; next: dprt train {NEXT[args.task]} --data {args.out}')
    write_json(args.json, {**facts, 'provenance': provenance()})


def collection(args: argparse.Namespace) -> Collecting:
    """Return what was asked for."""
    if args.task == 'arm':
        from diffusion_policy_rt.train.expert.arm import ArmCollection
        return ArmCollection(seed=args.seed, starts=args.starts, policy=args.policy)
    from diffusion_policy_rt.train.expert.collect import Collection
    return Collection(args.policy or 'pusht', starts=args.starts, seed=args.seed)
