"""`dprt table`: many policies, samplers and floors held against one reference, as a page."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffusion_policy_rt.cli.common import (
    add_floor_data, add_engine, add_seed, natural, positive, provenance, write_json)
from diffusion_policy_rt.cli.eval import FIRST_TEST_SEED, check_seed
from diffusion_policy_rt.cli.rivals import demonstrations
from diffusion_policy_rt.errors import DprtError

if TYPE_CHECKING:
    from diffusion_policy_rt.replay.figures import Measured
    from diffusion_policy_rt.replay.nearest import Demonstrations
    from diffusion_policy_rt.replay.rows import Row, Table
    from diffusion_policy_rt.replay.tabulate import Subject, Tabulation

HELP = 'Measure many policies on the same episodes and write the table and its picture.'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument('--rows', required=True, metavar='R',
                        help='YAML file of the rows, or a name in config/tables')
    parser.add_argument('--out', required=True, metavar='DIR',
                        help='where each row\'s episodes are kept; a run that stands there is '
                             'taken up, and what changed since is measured anew')
    parser.add_argument('--page', metavar='FILE.md',
                        help='the page; its picture is put beside it (default DIR/table.md)')
    parser.add_argument('--episodes', type=positive, default=200, metavar='N',
                        help='episode i starts from seed S + i (default 200)')
    parser.add_argument('--modes', type=natural, default=100, metavar='M',
                        help='crossroads searched for modes, from seed S; 0 skips (default 100)')
    parser.add_argument('--repeats', type=positive, default=200, metavar='K',
                        help='plans timed of each row, rows taking turns (default 200)')
    parser.add_argument('--workers', type=positive, default=os.cpu_count() or 1, metavar='W',
                        help='processes (default: one per core)')
    add_floor_data(parser)
    add_engine(parser)
    add_seed(parser, FIRST_TEST_SEED)


def run(args: argparse.Namespace) -> None:
    """Measure the rows, write the page; DprtError at the end if a row could not be measured."""
    from diffusion_policy_rt.replay.figures import tabulate
    from diffusion_policy_rt.replay.page import machine, write_page
    from diffusion_policy_rt.replay.rows import load_table
    from diffusion_policy_rt.replay.tabulate import Tabulation

    check_seed(args.seed)
    table, failed = load_table(args.rows), Failures()
    subjects = load(table, args.engine, demonstrations(args), failed)
    tabulation = Tabulation(Path(args.out) / 'kept', args.workers, watch)
    measured, searched = measure(tabulation, subjects, args, failed)
    reference = measured[0]
    order = sorted(measured, key=lambda one: table.rows.index(one.subject.row))
    result = {
        'reference': reference.subject.row.name, 'reference_label': table.reference.label,
        'episodes': args.episodes, 'seed': args.seed, 'crossroads': searched,
        'rows': tabulate(order, reference, args.repeats), 'failed': failed.listed,
        'machine': machine(), 'provenance': provenance()}
    page = Path(args.page or Path(args.out) / 'table.md')
    picture = write_page(page, table.title, table.text, result)
    print(f'{page}, {picture}: {len(measured)} rows')
    write_json(args.json, {**result, 'page': str(page), 'picture': str(picture)})
    failed.tell(page)


class Failures:
    """Rows that could not be measured: they cost no other row."""

    def __init__(self) -> None:
        self.listed: list[dict[str, str]] = []

    def add(self, row: Row, error: Exception) -> None:
        """Note a failure and tell it at once."""
        reason = str(error) if isinstance(error, DprtError) else f'{type(error).__name__}: {error}'
        self.listed.append({'row': row.name, 'error': reason})
        print(f'{row.name}: {reason}')

    def tell(self, page: Path) -> None:
        """Raise DprtError if a row failed."""
        if self.listed:
            names = '; '.join(failure['row'] for failure in self.listed)
            raise DprtError(f'{len(self.listed)} rows were not measured, the others are in '
                            f'{page}: {names}')


def load(table: Table, engine: str, data: Demonstrations | None,
         failed: Failures) -> list[Subject]:
    """Return the rows that can be measured, the reference first; its own failure is raised."""
    from diffusion_policy_rt.replay.tabulate import prepare

    subjects = [prepare(table.reference, engine, data)]
    for row in table.rows:
        try:
            if row != table.reference:
                subjects.append(prepare(row, engine, data))
        except Exception as error:  # whatever is wrong with a row costs that row only
            failed.add(row, error)
    return subjects


def measure(tabulation: Tabulation, subjects: Sequence[Subject], args: argparse.Namespace,
            failed: Failures) -> tuple[list[Measured], dict[str, int]]:
    """Return the measured rows, the reference first, and how many crossroads were searched."""
    from diffusion_policy_rt.replay.figures import Measured

    seeds = range(args.seed, args.seed + args.episodes)
    states = tabulation.crossroads(subjects[0], range(args.seed, args.seed + args.modes))
    split, measured = sum(state.splits for state in states), []
    for subject in subjects:
        try:
            outcomes = tabulation.episodes(subject, seeds)
            kept = tabulation.modes(subject, states) if split else None
            measured.append(Measured(subject, outcomes, kept))
        except Exception as error:  # an engine may raise anything
            if subject is subjects[0]:
                raise
            failed.add(subject.row, error)
    return measured, {'searched': len(states), 'split': split}


def watch(items: Iterable[Any], title: str, count: int) -> Iterable[Any]:
    """Pass items on behind a progress bar, where there is something to wait for."""
    from tqdm import tqdm

    return tqdm(items, desc=title, total=count, disable=not count)
