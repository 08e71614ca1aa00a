"""`dprt tune`: the cheapest stack of quantization, caching and distillation for a deadline."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from diffusion_policy_rt.cli.common import (
    add_policy, extra, names, natural, positive, provenance, table, write_json)
from diffusion_policy_rt.cli.distill import NAMES
from diffusion_policy_rt.cli.tune_make import Makers
from diffusion_policy_rt.errors import DprtError
from diffusion_policy_rt.text import parse_seconds

if TYPE_CHECKING:
    from diffusion_policy_rt.replay.tune_quality import BagError, Score

HELP = 'Find the cheapest stack of quantization, caching and distillation that meets a deadline.'
FIRST_SEED = 300_000
"""Seeds of the choice: no result is measured on them."""
COLUMNS = ('stage', 'steps', 'p50_s', 'p99_s', 'quality', 'size_bytes', 'meets')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_policy(parser, FIRST_SEED)
    parser.add_argument('--deadline', required=True, metavar='T',
                        help='time that a plan may take, such as 20ms or 0.02')
    parser.add_argument('--quality-drop', type=float, default=0.01, metavar='Q',
                        help='how much lower the score may be than that of the policy as it is; '
                             'with --bag, by what share the error may be higher (default 0.01)')
    parser.add_argument('--data', action='append', default=[], metavar='DIR',
                        help='demonstrations or bags: the policy is quantized and distilled on '
                             'them when it is their turn (default: --bag); may be repeated')
    parser.add_argument('--recipe', default='', metavar='R',
                        help='recipe that names the streams of the data (default: the bundle\'s)')
    parser.add_argument('--method', choices=NAMES, default='consistency',
                        help='how it is distilled (default consistency, as the shipped student)')
    parser.add_argument('--distill-recipe', default='', metavar='R',
                        help='as --recipe of dprt distill (default config/recipes/distill_METHOD)')
    parser.add_argument('--epochs', type=natural, default=0, metavar='N',
                        help='passes over the data to distil (default: the recipe\'s)')
    parser.add_argument('--observations', type=positive, default=128, metavar='N',
                        help='observations to quantize under (default 128)')
    parser.add_argument('--quantized', action='append', default=[], metavar='P',
                        help='a quantized bundle, instead of quantizing; may be repeated')
    parser.add_argument('--distilled', action='append', default=[], metavar='P',
                        help='a student, instead of distilling; may be repeated, best first')
    parser.add_argument('--bag', metavar='BAG',
                        help='measure quality as the error to the actions of a bag, not on Push-T')
    parser.add_argument('--map', action='append', default=[], metavar='NAME=TOPIC',
                        help='as of dprt replay')
    parser.add_argument('--gripper', type=names, default=[], metavar='NAME,...',
                        help='as of dprt replay')
    parser.add_argument('--episodes', type=positive, default=20, metavar='N',
                        help='Push-T episodes per stage (default 20)')
    parser.add_argument('--skip-slow', action='store_true',
                        help='measure no quality of stages that are too slow, but the first')
    parser.add_argument('--repeats', type=positive, default=300, metavar='N',
                        help='plans timed per stage (default 300)')
    parser.add_argument('--margin', type=float, default=0.1, metavar='M',
                        help='share added to the measured p99 (default 0.1)')
    parser.add_argument('--workers', type=natural, default=os.cpu_count() or 1, metavar='N',
                        help='processes for episodes (default: all cores)')
    parser.add_argument('--out', required=True, metavar='DIR',
                        help='what is measured, the ladder and the bundle; a run that stands '
                             'there is taken up')


def run(args: argparse.Namespace) -> None:
    """Climb the ladder; write the bundle, the table and the picture."""
    with extra('tune', 'demo'):
        from diffusion_policy_rt.replay.ladder_page import write_ladder
        from diffusion_policy_rt.replay.tune import (
            Aim, Stage, Tuner, advice, deliver, ladder)

    out = Path(args.out).resolve()
    out.mkdir(parents=True, exist_ok=True)
    aim = Aim(parse_seconds(args.deadline), args.margin, args.quality_drop, not args.bag)
    worth = quality(args, out)
    tuner = Tuner(out / 'kept', args.engine, args.threads, args.repeats, worth,
                  args.skip_slow)
    made = Makers(args, out / 'made')
    rows = tuner.climb(ladder(args.policy, args.steps, made.quantized(), made.distilled(),
                              made.again), aim)
    for row in rows:
        if row['quality'] is not None:
            row |= worth.beside(Stage.of(row), Stage.of(rows[0]))
    chosen = rows[-1] if rows[-1]['meets'] else None
    bundle = deliver(chosen, out / 'bundle', aim).folder if chosen else None
    result = {'ladder': rows, 'chosen': chosen and chosen['stage'],
              'bundle': bundle and str(bundle), 'deadline_s': aim.deadline_s,
              'p99_most_s': aim.p99_most_s,
              'quality_is': 'action_rmse' if args.bag else 'mean_max_coverage',
              'episodes': None if args.bag else args.episodes,
              'advice': ' '.join([advice(rows, aim), *made.told]), 'left_out': made.left_out,
              'provenance': provenance()}
    print(table([{key: row[key] for key in COLUMNS} for row in rows]))
    write_ladder(out, result)
    write_json(args.json, result)
    if chosen is None:
        raise DprtError(result['advice'])
    print(f'{result["advice"]} Bundle: {bundle}')


def quality(args: argparse.Namespace, out: Path) -> Score | BagError:
    """Return what measures a stage's quality: in closed loop, or against a bag's actions."""
    from diffusion_policy_rt.cli.table import watch
    from diffusion_policy_rt.replay.session import Wish
    from diffusion_policy_rt.replay.tabulate import Tabulation
    from diffusion_policy_rt.replay.tune_quality import BagError, Score

    if args.bag:
        return BagError(Wish(Path(args.bag), out, threads=args.threads, maps=args.map,
                             write_bag=False, gripper=args.gripper), args.engine)
    tabulation = Tabulation(out / 'kept', max(1, args.workers), watch)
    return Score(tabulation, args.engine, range(args.seed, args.seed + args.episodes))
