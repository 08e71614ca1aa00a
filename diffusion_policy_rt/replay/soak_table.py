"""A soak under each load in turn, and a table of them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from diffusion_policy_rt.errors import DprtError
from diffusion_policy_rt.replay import soak_figures
from diffusion_policy_rt.replay.soak import Soak
from diffusion_policy_rt.replay.soak_load import Load

TICKS = 4000
"""Ticks of each row: 80 s at 50 Hz."""
FIFO = 50
"""SCHED_FIFO priority of the row that has one."""
MEMORY = 1 << 30
"""What the rows with memory pressure write over and over [bytes]."""
LARGE: Mapping[str, Any] = {'width': 640, 'height': 480, 'hz': 30.0}
NONE: Mapping[str, object] = {}
EVERY: Mapping[str, object] = {'replan_ticks': 1}
"""So that a plan is made in every tick."""
HEAD = ('| load | ticks | missed | lateness p50 | p99 | p99.9 | max | to a plain timer '
        '| stamp to publish p50 | p99 | p99.9 | max | images | memory |')


def rows(soak: Soak, folder: Path) -> Iterator[tuple[str, Soak]]:
    """Yield the name of each load and its soak, which else is `soak`; bags go into `folder`."""
    def under(load: Load, given: Mapping[str, object] = NONE, **changes: Any) -> Soak:
        return replace(soak, load=load, parameters={**soak.parameters, **given}, **changes)

    cores = os.cpu_count() or 1
    idle, busy = Load(), Load(busy=cores)
    yield 'none', under(idle)
    yield f'{cores} busy processes', under(busy)
    yield 'memory written', under(Load(memory=MEMORY))
    yield '640x480 at 30 Hz', under(idle, **LARGE)
    yield 'two cameras at 30 Hz', under(idle, policy='arm', hz=30.0)
    yield 'a bag of 640x480 at 30 Hz', under(Load(record=folder / 'bag'), **LARGE)
    yield 'all of these', under(Load(cores, MEMORY, folder / 'all'), **LARGE)
    yield f'busy, SCHED_FIFO {FIFO}', under(busy, {'realtime.priority': FIFO})
    yield 'busy, `engine_process`', under(busy, {'engine_process': True})
    yield 'none, one step in every tick', under(idle, {**EVERY, 'max_steps': 1}, hz=soak.rate)
    yield 'none, 100 plans per second', under(idle, EVERY, rate=100.0, hz=100.0,
                                              deadline=min(soak.deadline, 0.01))


def run_table(soak: Soak, ticks: int) -> list[dict[str, Any]]:
    """Return the figures of each row; one that Ctrl-C ended is the last.

    A node that does not start leaves its reason in the row, and the rows after it are run.
    """
    made: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for load, one in rows(replace(soak, ticks=ticks), Path(folder)):
            print(load, flush=True)
            made.append({'load': load, **_run(one)})
            if made[-1]['interrupted']:
                break
    return made


def _run(soak: Soak) -> dict[str, Any]:
    try:
        return soak.run()
    except DprtError as error:
        return {'refused': str(error), 'interrupted': False}


def verdict(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return what may not be, in words; [] when all is well."""
    return [f'{row["load"]}: {told}' for row in rows
            for told in ([row['refused']] if 'refused' in row else soak_figures.verdict(row))]


def page(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as a table in Markdown; lateness is that of ticks that planned nothing."""
    return '\n'.join([HEAD, '|---' * HEAD.count(' | ') + '|---|', *map(_line, rows)])


def _line(row: dict[str, Any]) -> str:
    if 'refused' in row:
        return f'| {row["load"]} | {row["refused"]} |'
    late, age = row['lateness_chunk_s'], row['stamp_to_publish_s']
    ratio, told = row['lateness_ratio'], row['unaccounted']
    cells = [row['load'], f'{row["ticks"]}{f" ({told} not told)" if told else ""}', row['missed'],
             *(_ms(late[p]) for p in ('p50', 'p99', 'p99.9', 'max')),
             f'{ratio:.1f}' if ratio else '-',
             *(_ms(age[p]) for p in ('p50', 'p99', 'p99.9', 'max')),
             ', '.join(f'{each["received"]} of {each["sent"]}' for each in row['frames'].values()),
             f'{row["growth_bytes"] / (1 << 20):+.1f} MiB']
    return f'| {" | ".join(map(str, cells))} |'


def _ms(seconds: float | None) -> str:
    return '-' if seconds is None else f'{1e3 * seconds:.2f}'
