"""The ladder of `dprt tune` as a page: Markdown, and a picture of quality against time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

from diffusion_policy_rt.files import whole_file
from diffusion_policy_rt.replay.page import machine

matplotlib.use('Agg')
import matplotlib.pyplot as plt  # noqa: E402  (after the backend is chosen)


def write_ladder(folder: Path, result: Mapping[str, Any]) -> None:
    """Write ladder.md and ladder.png of a result of `dprt tune --json`."""
    draw(folder / 'ladder.png', result)
    with whole_file(folder / 'ladder.md') as partial:
        partial.write_text(markdown(result), encoding='utf-8')


def markdown(result: Mapping[str, Any]) -> str:
    """Return the page."""
    lines = [f'# Stacks for a deadline of {1e3 * result["deadline_s"]:g} ms', '',
             f'{result["advice"]} Quality is {result["quality_is"]}; a plan is timed from one new '
             f'frame per camera to its chunk, on {machine()}. Made by '
             f'`{result["provenance"]["command"]}`.', '',
             '| stack | steps | p50 [ms] | p99 [ms] | quality | size [MB] | meets |',
             '|---|---|---|---|---|---|---|']
    lines += [f'| {row["stage"]} | {row["steps"]} | {1e3 * row["p50_s"]:.2f} | '
              f'{1e3 * row["p99_s"]:.2f} | {row["quality"]:.4g} | {row["size_bytes"] / 1e6:.2f} | '
              f'{"yes" if row["meets"] else "no"} |' for row in result['ladder']]
    return '\n'.join([*lines, '', '![quality against time](ladder.png)', ''])


def draw(path: Path, result: Mapping[str, Any]) -> None:
    """Draw each stage at its p99 and quality, and the deadline."""
    figure, axis = plt.subplots(figsize=(8, 5), layout='constrained')
    rows = result['ladder']
    axis.plot([1e3 * row['p99_s'] for row in rows], [row['quality'] for row in rows], '-',
              color='#9a9a9a', lw=1)
    for row in rows:
        colour = '#2a9d8f' if row['meets'] else '#264653'
        axis.plot(1e3 * row['p99_s'], row['quality'], 'o', color=colour)
        axis.annotate(row['stage'], (1e3 * row['p99_s'], row['quality']), fontsize=8,
                      xytext=(5, 5), textcoords='offset points', color=colour)
    axis.axvline(1e3 * result['deadline_s'], color='#e63946', lw=1, label='deadline')
    axis.set(xscale='log', xlabel='time per plan, p99 [ms]', ylabel=result['quality_is'])
    axis.legend()
    axis.grid(alpha=0.3, which='both')
    with whole_file(path) as partial:
        figure.savefig(partial, dpi=110, format='png')
    plt.close(figure)
