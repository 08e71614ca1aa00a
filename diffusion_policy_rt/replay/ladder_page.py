"""The ladder of `dprt tune` as a page: Markdown, and a picture of quality against time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

from diffusion_policy_rt.files import whole_file
from diffusion_policy_rt.replay.page import interval, machine

matplotlib.use('Agg')
import matplotlib.pyplot as plt  # noqa: E402  (after the backend is chosen)
from matplotlib.ticker import FuncFormatter  # noqa: E402


LEAST_SPAN = 0.1
"""What the axis of the quality spans at least, as a share of its middle."""


def write_ladder(folder: Path, result: Mapping[str, Any]) -> None:
    """Write ladder.md and ladder.png of a result of `dprt tune --json`."""
    draw(folder / 'ladder.png', result)
    with whole_file(folder / 'ladder.md') as partial:
        partial.write_text(markdown(result), encoding='utf-8')


def markdown(result: Mapping[str, Any]) -> str:
    """Return the page."""
    mean = f', the mean of {result["episodes"]} episodes' if result['episodes'] else ''
    lines = [f'# Stacks for a deadline of {1e3 * result["deadline_s"]:g} ms', '',
             f'{result["advice"]} Quality is {result["quality_is"]}{mean}; a plan is timed from '
             f'one new frame per camera to its chunk, on {machine()}. With the margin, and half a '
             f'millisecond to publish in, its p99 may be {1e3 * result["p99_most_s"]:.3g} ms. '
             f'Made by `{result["provenance"]["command"]}` on '
             f'`{result["provenance"]["git"]}`.', '',
             '| | stack | steps | p50 [ms] | p99 [ms] | quality | size [MB] | meets |',
             '|---|---|---|---|---|---|---|---|']
    lines += [f'| {number} | {row["stage"]} | {row["steps"]} | {1e3 * row["p50_s"]:.2f} | '
              f'{1e3 * row["p99_s"]:.2f} | {quality(row)} | {row["size_bytes"] / 1e6:.2f} | '
              f'{"yes" if row["meets"] else "no"} |'
              for number, row in enumerate(result['ladder'], 1)]
    return '\n'.join([*lines, '', '![quality against time](ladder.png)', ''])


def quality(row: Mapping[str, Any]) -> str:
    """Return a row's quality, and its mean paired difference to the first row if it has one."""
    if row['quality'] is None:
        return '-'
    if not any(row.get('difference_ci95', ())):
        return f'{row["quality"]:.4g}'
    return (f'{row["quality"]:.3f}; '
            + interval(row['difference'], row['difference_ci95'], '+.3f'))


def draw(path: Path, result: Mapping[str, Any]) -> None:
    """Draw each stage at its p99 and quality, by its number, and the deadline.

    A stage whose quality was not measured stands, hollow, at the foot; a bar is the interval of
    the difference to the first.
    """
    figure, axis = plt.subplots(figsize=(9, 5), layout='constrained')
    rows = result['ladder']
    known = [row for row in rows if row['quality'] is not None]
    axis.plot([1e3 * row['p99_s'] for row in known], [row['quality'] for row in known], '-',
              color='#9a9a9a', lw=1)
    for number, row in enumerate(rows, 1):
        colour, measured = '#2a9d8f' if row['meets'] else '#264653', row['quality'] is not None
        at = 1e3 * row['p99_s'], row['quality'] if measured else 0.03
        within = axis.transData if measured else axis.get_xaxis_transform()
        axis.plot(*at, 'o', color=colour, mfc=colour if measured else 'none', transform=within,
                  label=f'{number}  {row["stage"]}')
        ends = [rows[0]['quality'] + end for end in row.get('difference_ci95', ())]
        axis.plot([at[0]] * len(ends), ends, color=colour, lw=1)
        axis.annotate(str(number), at, fontsize=9, color=colour, ha='center', va='center',
                      xycoords=within, textcoords='offset points',
                      xytext=(0 if not measured else 9, 11 if number % 2 or not measured else -11))
    axis.axvline(1e3 * result['deadline_s'], color='#e63946', lw=1, label='deadline')
    axis.axvline(1e3 * result['p99_most_s'], color='#e63946', lw=1, ls='--',
                 label='the same less margin and publishing')
    axis.set(xscale='log', xlabel='time per plan, p99 [ms]',
             ylabel=result['quality_is'].replace('_', ' '))
    for formatter in (axis.xaxis.set_major_formatter, axis.xaxis.set_minor_formatter):
        formatter(FuncFormatter(lambda ms, _: f'{ms:g}'))
    axis.tick_params(axis='x', which='minor', labelsize=8)
    axis.grid(alpha=0.3, which='both')
    axis.margins(y=0.1)
    low, high = axis.get_ylim()
    more = max(0.0, LEAST_SPAN * abs(low + high) / 2 - (high - low)) / 2  # noise looks like noise
    axis.set_ylim(low - more, high + more)
    figure.legend(loc='outside lower center', ncols=2, fontsize=8, frameon=False)
    with whole_file(path) as partial:
        figure.savefig(partial, dpi=110, format='png')
    plt.close(figure)
