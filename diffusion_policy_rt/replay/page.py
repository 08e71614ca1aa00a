"""A table of policies as a page: Markdown, and a picture of score against time per plan."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

from diffusion_policy_rt.files import whole_file

matplotlib.use('Agg')
import matplotlib.pyplot as plt  # noqa: E402  (after the backend is chosen)
from matplotlib.ticker import FuncFormatter  # noqa: E402

HEAD = ('policy', 'network calls', 'mean max coverage', 'success', 'score to reference',
        'modes kept', 'jerk [10³ px/s³]', 'seam jump', 'time per plan [ms]', 'faster',
        'training [h]')


def interval(mean: float, ends: Sequence[float], form: str) -> str:
    """Return a mean and the ends of its interval as text."""
    return f'{mean:{form}} [{ends[0]:{form}}, {ends[1]:{form}}]'


def cells(row: Mapping[str, Any]) -> list[str]:
    """Return a row's cells in the order of HEAD."""
    success, *ends = [100 * value for value in (row['success_rate'], *row['success_ci95'])]
    plan, kept, trained, seams = (row[key] for key in ('plan_s', 'modes_kept', 'hours', 'seams'))
    after = f' after {row["teacher_hours"]:.2g}' if row['teacher_hours'] is not None else ''
    return [
        row['label'], str(row['network_calls'] or '-'),
        interval(row['mean_max_coverage'], row['ci95'], '.3f'),
        interval(success, ends, '.1f') + ' %',
        interval(row['difference'], row['difference_ci95'], '+.3f'),
        '-' if kept is None else f'{100 * row["mode_coverage"]:.0f} % ({kept}/{row["modes"]})',
        f'{row["jerk"] / 1e3:.1f}', '-' if seams is None else f'{seams["ratio"]:.2f}',
        '-' if plan is None else f'{1e3 * plan["p50"]:.2f}',
        '-' if plan is None else f'{row["speedup"]:.3g} x',
        '-' if trained is None else f'{trained:.2g}{after}']


def markdown(title: str, text: str, result: Mapping[str, Any], picture: str) -> str:
    """Return the page of a result of `dprt table --json`."""
    table = [HEAD, ['---'] * len(HEAD), *map(cells, result['rows'])]
    lines = [f'# {title}', '', *([text.strip(), ''] if text else []), method(result), '',
             *(f'| {" | ".join(row)} |' for row in table), '']
    for failure in result['failed']:
        lines += [f'Not measured: {failure["row"]} ({failure["error"]}).', '']
    return '\n'.join([*lines, f'![score against time per plan]({picture})', ''])


def method(result: Mapping[str, Any]) -> str:
    """Return how the figures were measured."""
    states = result['crossroads']
    counted = (f'Modes: {states["split"]} of {states["searched"]} crossroads, from seed '
               f'{result["seed"]}, where the reference\'s chunks go round the block both ways. '
               if states['searched'] else '')
    first, last = result['seed'], result['seed'] + result['episodes'] - 1
    return (
        f'Closed loop on Push-T, seeds {first} to {last}; intervals: 95 %, bootstrap over '
        f'episodes. "Score to reference" is the mean paired difference to '
        f'*{result["reference"]}*. {counted}Seam jump: the 99th percentile of '
        'how far targets jump where one chunk takes over from another, over that within chunks. '
        'Time per plan: median from a new image to its chunk '
        'on one CPU thread of '
        f'{result["machine"]}, all rows taking turns in one process. Training: own hours, after '
        f'the teacher\'s. Made by `{result["provenance"]["command"]}` on '
        f'`{result["provenance"]["git"] or "-"}`.')


def machine() -> str:
    """Return the processor's name, as far as it is known, and how many cores it lends."""
    path = Path('/proc/cpuinfo')
    named = [line.partition(':')[2].strip() for line in path.read_text().splitlines()
             if line.startswith('model name')] if path.is_file() else []
    return f'{(named or [platform.processor() or platform.machine()])[0]}, {os.cpu_count()} cores'


def draw(path: Path, rows: Sequence[Mapping[str, Any]], reference: str) -> None:
    """Draw each row's score and interval over its time per plan; one colour per label."""
    figure, axis = plt.subplots(figsize=(9, 5.5), layout='constrained')
    timed = [row for row in rows if row['plan_s'] is not None]
    for i, label in enumerate(dict.fromkeys(row['label'] for row in timed)):
        line = sorted((row for row in timed if row['label'] == label),
                      key=lambda row: row['plan_s']['p50'])
        curve(axis, line, label, f'C{i % 10}', 'os^Dv*'[i // 10 % 6])
        if label == reference:
            axis.axhline(line[0]['mean_max_coverage'], color=f'C{i % 10}', lw=0.8, ls='--')
    lowest = min(row['ci95'][0] for row in timed) - 0.02
    for row in rows:  # a floor far below would flatten the rest
        if row['plan_s'] is None and row['mean_max_coverage'] > lowest:
            axis.axhline(row['mean_max_coverage'], color='#9a9a9a', lw=0.8, ls=':')
            axis.annotate(row['label'], (0.005, row['mean_max_coverage']), fontsize=7, va='bottom',
                          xycoords=('axes fraction', 'data'), color='#6a6a6a')
    axis.set(xscale='log', xlabel='time per plan [ms]', ylabel='mean max coverage',
             ylim=(lowest, 1.01))
    for ticks in (axis.xaxis.set_major_formatter, axis.xaxis.set_minor_formatter):
        ticks(FuncFormatter(lambda ms, _: f'{ms:g}'))
    axis.grid(alpha=0.3, which='both')
    figure.legend(loc='outside right upper', fontsize=8)
    with whole_file(path) as partial:
        figure.savefig(partial, dpi=110, format='png')
    plt.close(figure)


def curve(axis: Any, line: Sequence[Mapping[str, Any]], label: str, colour: str,
          marker: str) -> None:
    """Draw the rows of one label, each told its network calls."""
    x = [1e3 * row['plan_s']['p50'] for row in line]
    y = [row['mean_max_coverage'] for row in line]
    reach = [[max(0.0, m - row['ci95'][0]) for m, row in zip(y, line)],
             [max(0.0, row['ci95'][1] - m) for m, row in zip(y, line)]]
    axis.errorbar(x, y, reach, fmt=marker, ls='-', lw=1, ms=4, capsize=2, color=colour,
                  label=label)
    for left, top, row in zip(x, y, line):
        axis.annotate(str(row['network_calls']), (left, top), fontsize=7, color=colour,
                      xytext=(3, 3), textcoords='offset points')


def write_page(path: Path, title: str, text: str, result: Mapping[str, Any]) -> Path:
    """Write the page, and its picture beside it; return the picture's path."""
    picture = path.with_suffix('.png')
    path.parent.mkdir(parents=True, exist_ok=True)
    draw(picture, result['rows'], result['reference_label'])
    with whole_file(path) as partial:
        partial.write_text(markdown(title, text, result, picture.name), encoding='utf-8')
    return picture
