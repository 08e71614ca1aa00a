"""`dprt replay`: how a policy would have acted on a recorded bag, and how late."""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffusion_policy_rt.cli.common import (
    add_policy, extra, names, pair, provenance, table, write_json)
from diffusion_policy_rt.errors import DataError
from diffusion_policy_rt.text import parse_seconds, show

if TYPE_CHECKING:
    from diffusion_policy_rt.replay.session import Wish

HELP = 'Run policies on a recorded bag, deterministically and with latency charged.'
ROW = ('label', 'engine', 'ticks', 'missed', 'late_plans', 'action_rmse', 'jerk_ratio',
       'seam_jump_ratio', 'nfe')

SWITCH = {'true': True, 'false': False}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument('bag', metavar='BAG',
                        help='a bag of ROS 2 (mcap, sqlite3) or ROS 1: a folder or a file')
    add_policy(parser, several=True)
    parser.add_argument('--latency', default='', metavar='L',
                        help='what a plan costs: 12ms or 12ms,p99=20ms,encode=3ms; measured; a '
                             'bag or trace.jsonl with a recorded ~/timing; or recorded: as it was '
                             'in the bag (default recorded for a run of this policy, else 0)')
    parser.add_argument('--map', action='append', default=[], metavar='NAME=TOPIC',
                        help='camera.NAME, state, action, gripper_action, reset or timing; '
                             'state=const:1,2 for a state that never changes')
    parser.add_argument('--fault', action='append', default=[], metavar='KIND=VALUE[@STREAM]',
                        help='drop=0.1, delay=30ms, freeze=2s+1s, reorder=0.1, noise=5, skew=20ms;'
                             ' on all streams, or on a camera or `state`')
    parser.add_argument('--rate', type=float, default=0.0, metavar='HZ',
                        help='control rate (default: the policy\'s)')
    parser.add_argument('--deadline', default='0', metavar='T',
                        help='deadline of each tick, such as 20ms or 0.02 (default 0.05, at most '
                             'half a period)')
    parser.add_argument('--set', action='append', default=[], metavar='NAME=VALUE',
                        help='another parameter of the node, a number or a switch, such as '
                             'action_timeout=1 or cache.blocks=true')
    parser.add_argument('--action-type', default='joint_trajectory', metavar='T',
                        help='type of the actions in the output bag (default joint_trajectory)')
    parser.add_argument('--gripper', type=names, default=[], metavar='NAME,...',
                        help='actions that the bag has on a topic of their own (gripper_action), '
                             'in its order (default: what the other actions\' messages do not '
                             'name)')
    parser.add_argument('--no-bag', action='store_true', help='write no output bag')
    parser.add_argument('--out', metavar='DIR', help='output folder (default runs/replay-TIME)')


def run(args: argparse.Namespace) -> None:
    """Replay with each policy and engine, and write traces, bags and the page."""
    with extra('replay', 'demo'):
        from diffusion_policy_rt.replay.bag_page import write_page
        from diffusion_policy_rt.replay.session import replay_one
    wish = make_wish(args)
    pairs = list(itertools.product(args.policy or ['pusht'], args.engine or ['auto']))
    runs = [replay_one(policy, engine, label, wish)
            for (policy, engine), label in zip(pairs, labels(pairs))]
    rows = [{**one.result, 'report': str(wish.out / 'report')} for one in runs]
    write_page(wish.out / 'report' / 'index.html', runs)
    result = {**rows[0], **({'policies': rows} if len(rows) > 1 else {}),
              'provenance': provenance()}
    print(summary(rows))
    write_json(wish.out / 'result.json', result)
    write_json(args.json, result)


def make_wish(args: argparse.Namespace) -> Wish:
    """Return what was asked for; DataError for a folder that is not empty."""
    from diffusion_policy_rt.replay.session import Wish

    out = Path(args.out or f'runs/replay-{time.strftime("%Y%m%d-%H%M%S")}').resolve()
    if out.exists() and any(out.iterdir()):
        raise DataError(f'{out} is not empty; choose another --out')
    return Wish(Path(args.bag), out, args.latency, args.steps, args.threads, args.seed, args.rate,
                parse_seconds(args.deadline), args.map, args.fault, dict(map(setting, args.set)),
                args.action_type, not args.no_bag, args.gripper)


def setting(text: str) -> tuple[str, float | bool]:
    """Parse NAME=VALUE; DataError where the value is neither a number nor true or false."""
    name, value = pair(text)
    if value in SWITCH:
        return name, SWITCH[value]
    try:
        return name, float(value)
    except ValueError as error:
        raise DataError(f'--set {text!r}: write NAME=NUMBER, NAME=true or NAME=false') from error


def labels(pairs: list[tuple[str, str]]) -> list[str]:
    """Return a distinct suffix for the files of each policy and engine; '' for a single one."""
    if len(pairs) == 1:
        return ['']
    engines = len({engine for _, engine in pairs}) > 1
    made: list[str] = []
    for policy, engine in pairs:
        name = f'_{Path(policy).name or "pusht"}' + (f'_{engine}' if engines else '')
        made.append(name if name not in made else f'{name}_{len(made)}')
    return made


def summary(rows: list[dict[str, Any]]) -> str:
    """Return the table and, for each row, what it is good to know."""
    lines = [table([{key: row[key] for key in ROW} for row in rows])]
    for row in rows:
        rungs = ', '.join(f'{name} {count}' for name, count in row['rungs'].items() if count)
        late = ', '.join(f'{name} {count}' for name, count in row['late_plans_rungs'].items())
        lines.append(f'{row["label"]}: rungs {rungs or "none"}; {row["late_plans"]} plans missed '
                     f'the {1e3 * row["deadline_s"]:g} ms deadline'
                     f'{f" (answered by {late})" if late else ""}; latency {row["latency"]}')
        for name, error in (row['action_error'] or {}).items():
            lines.append(f'  {name}: off by {show(error["rmse"])} {error["unit"]} (rms), at most '
                         f'{show(error["max"])}')
        lines += [f'  {note}' for note in row['notes']]
        lines += [f'  no plan in {count} ticks: {reason}'
                  for reason, count in row['reasons'].items()]
    return '\n'.join([*lines, f'actions {rows[0]["sha256"][:16]}; report: {rows[0]["report"]}'])
