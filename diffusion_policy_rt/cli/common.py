"""What several commands share: options that mean the same everywhere, results, provenance."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffusion_policy_rt import __version__
from diffusion_policy_rt.errors import DprtError
from diffusion_policy_rt.files import whole_file
from diffusion_policy_rt.text import show

if TYPE_CHECKING:
    from diffusion_policy_rt.train.distributed import Strategy
    from diffusion_policy_rt.train.selection import ClosedLoop


def add_policy(parser: argparse.ArgumentParser, seed: int = 0, several: bool = False) -> None:
    """Add --policy, --engine, --threads, --steps and --seed, whose default is `seed`.

    With `several`, --policy and --engine may be repeated and have no default: they are lists.
    """
    many: dict[str, Any] = {'action': 'append', 'default': []} if several else {}
    again = '; may be repeated, to compare' if several else ''
    parser.add_argument('--policy', metavar='P', **(many or {'default': 'pusht'}),
                        help=f'bundle folder, or the name of a shipped one (default pusht){again}')
    add_engine(parser, many, again)
    parser.add_argument('--threads', type=positive, default=1, metavar='N',
                        help='threads per matrix product (default 1)')
    parser.add_argument('--steps', type=positive, default=0, metavar='K',
                        help='network calls per plan (default: the most served up to 8)')
    add_seed(parser, seed)


def add_engine(parser: argparse.ArgumentParser, many: dict[str, Any] | None = None,
               again: str = '') -> None:
    """Add --engine; `many` as `add_policy` has it."""
    parser.add_argument('--engine', metavar='E', **(many or {'default': 'auto'}),
                        help=f'auto, onnxruntime, tensorrt or torch (default auto){again}')


def add_floor_data(parser: argparse.ArgumentParser) -> None:
    """Add --data for the nearest neighbour."""
    parser.add_argument('--data', metavar='DIR',
                        help='Push-T demonstrations, which the policy `nearest` replays')


def add_seed(parser: argparse.ArgumentParser, default: int = 0) -> None:
    """Add --seed."""
    parser.add_argument('--seed', type=natural, default=default, metavar='S',
                        help=f'seed of all random choices (default {default})')


def add_data(parser: argparse.ArgumentParser, what: str, *others: str) -> None:
    """Add --data, which may be given several times, and by other names too."""
    parser.add_argument('--data', *others, dest='data', required=True, action='append',
                        metavar='DIR', help=f'{what}; may be given several times')


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add what every training has: --out, --threads and --seed."""
    parser.add_argument('--out', required=True, metavar='DIR',
                        help='run folder: checkpoints, curves and the bundle; a run that stands '
                             'there is resumed')
    parser.add_argument('--threads', type=positive, default=os.cpu_count() or 1, metavar='N',
                        help='CPU threads (default: all cores)')
    add_seed(parser)


def add_strategy(parser: argparse.ArgumentParser) -> None:
    """Add how a training uses memory and processes; see `strategy`."""
    parser.add_argument('--shard', action='store_true',
                        help='spread weights, gradients and optimiser over the processes that '
                             'torchrun started (FSDP2)')
    parser.add_argument('--precision', choices=('float32', 'bfloat16'), default='float32',
                        help='what layers compute in; weights stay float32 (default float32)')
    parser.add_argument('--accumulate', type=positive, default=1, metavar='N',
                        help='take each batch in N parts, one after the other (default 1)')
    parser.add_argument('--recompute', action='store_true',
                        help='compute activations again in the backward pass, to save memory')
    parser.add_argument('--save-every', type=natural, default=0, metavar='N',
                        help='write a checkpoint every N steps as well (default 0: at the end of '
                             'each epoch)')


def strategy(args: argparse.Namespace) -> Strategy:
    """Return what `add_strategy` was given."""
    from diffusion_policy_rt.train.distributed import Strategy
    return Strategy(args.shard, args.precision, args.accumulate, args.recompute,
                    args.save_every)


def add_selection(parser: argparse.ArgumentParser) -> None:
    """Add the choice of the checkpoint in closed loop."""
    parser.add_argument('--eval-every', type=natural, default=0, metavar='K',
                        help='evaluate on Push-T at the end of every K epochs, and keep the epoch '
                             'of the best score (default 0: not)')
    parser.add_argument('--eval-episodes', type=positive, default=40, metavar='N',
                        help='episodes of each evaluation, from seed 300000 (default 40)')
    parser.add_argument('--eval-steps', type=positive, action='append', default=[], metavar='K',
                        help='network calls per plan to evaluate; may be repeated (default: the '
                             'most served up to 8)')


def closed_loop(args: argparse.Namespace) -> ClosedLoop | None:
    """Return the evaluation that `add_selection` was given; None without --eval-every."""
    if not args.eval_every:
        return None
    with extra('--eval-every', 'sim'):
        from diffusion_policy_rt.train.selection import ClosedLoop
    return ClosedLoop(args.eval_every, args.eval_episodes, tuple(args.eval_steps), args.threads)


@contextmanager
def extra(what: str, name: str) -> Iterator[None]:
    """Tell in one line which extra of this package `what` needs, when an import fails."""
    try:
        yield
    except ImportError as error:
        raise DprtError(f'{what} needs {error.name}; pip install "diffusion_policy_rt[{name}]"'
                        ) from error


def natural(text: str) -> int:
    """Parse an integer of at least 0."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f'{value} is below 0')
    return value


def positive(text: str) -> int:
    """Parse an integer of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f'{value} is below 1')
    return value


def amount(text: str) -> float:
    """Parse a finite number of at least 0."""
    value = float(text)
    if not 0 <= value < float('inf'):
        raise argparse.ArgumentTypeError(f'{value} is no amount')
    return value


def pair(text: str) -> tuple[str, str]:
    """Split NAME=VALUE, as --set has it; DprtError for anything else."""
    name, _, value = text.partition('=')
    if not (name and value):
        raise DprtError(f'--set {text}: give NAME=VALUE, such as replan_ticks=1')
    return name, value


def names(text: str) -> list[str]:
    """Parse a list of names."""
    return [name.strip() for name in text.split(',')]


def write_json(path: str | Path | None, result: dict[str, Any]) -> None:
    """Write the result whole or not at all; nothing where no file was asked for."""
    if not path:
        return
    with whole_file(Path(path)) as partial:
        partial.write_text(json.dumps(result, indent=1) + '\n')


def read_json(path: str, key: str) -> Any:
    """Return the value of `key` in a result that `write_json` wrote; DprtError without it."""
    try:
        return json.loads(Path(path).read_text())[key]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DprtError(f'{path} is no result with {key!r}: {error}') from error


def table(rows: list[dict[str, Any]]) -> str:
    """Return rows of equal keys as an aligned text table."""
    if not rows:
        return ''
    cells = [[str(key) for key in rows[0]], *([show(v) for v in row.values()] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    return '\n'.join('  '.join(c.rjust(w) for c, w in zip(row, widths)) for row in cells)


def provenance() -> dict[str, Any]:
    """Return how this process was started and from what code: command, version, git commit."""
    root = Path(__file__).parent.parent.parent
    try:
        git = subprocess.run(['git', '-C', str(root), 'describe', '--always', '--dirty'],
                             capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        git = ''
    command = shlex.join(['dprt', *sys.argv[1:]])
    return {'command': command, 'version': __version__, 'git': git}
