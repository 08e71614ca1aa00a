"""The page of a replay: one self-contained file, drawn from the results and the traces alone."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffusion_policy_rt.files import whole_file
from diffusion_policy_rt.replay.drawings import camera_strip, curves, histogram, timeline
from diffusion_policy_rt.replay.page import machine
from diffusion_policy_rt.replay.session import Replayed
from diffusion_policy_rt.replay.style import STYLE
from diffusion_policy_rt.text import show

COLUMNS = {
    'label': 'policy', 'engine': 'engine', 'ticks': 'ticks', 'missed': 'actions late',
    'late_plans': 'plans late', 'action_rmse': 'action error (rms)', 'identical': 'identical',
    'jerk_ratio': 'jerk ratio', 'seam_jump_ratio': 'seam jump ratio', 'nfe': 'calls per plan'}


def write_page(path: Path, runs: Sequence[Replayed]) -> None:
    """Write the page of one bag's replays, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    body = ''.join([head(runs), *(section(run) for run in runs)])
    page = ('<!doctype html><html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width,initial-scale=1">'
            f'<title>{title(runs)}</title><style>{STYLE}</style></head><body><main>{body}</main>'
            '</body></html>\n')
    with whole_file(path) as partial:
        partial.write_text(page, encoding='utf-8')


def title(runs: Sequence[Replayed]) -> str:
    """Return what the page is of."""
    path = Path(runs[0].result['input'])
    name = f'{path.parent.name}/bag' if path.name == 'bag' else path.name  # as `dprt demo` has it
    return f'Replay of {html.escape(name)}'


def head(runs: Sequence[Replayed]) -> str:
    """Return what all runs share, and one row for each."""
    first = runs[0].result
    faults = f'; faults {", ".join(first["faults"])}' if first['faults'] else ''
    rows = [[run.result[key] for key in COLUMNS] for run in runs]
    return (f'<h1>{title(runs)}</h1>'
            f'<p class="quiet">{html.escape(first["input"])}; deadline '
            f'{1e3 * first["deadline_s"]:g} ms at {first["rate_hz"]:g} Hz; latency charged: '
            f'{html.escape(first["latency"])}{html.escape(faults)}; seed {first["seed"]}; '
            f'{html.escape(machine())}</p><section>{grid(list(COLUMNS.values()), rows)}</section>')


def section(run: Replayed) -> str:
    """Return one policy's figures and drawings."""
    result = run.result
    lines = [json.loads(line) for line in run.trace.read_text().splitlines()]
    parts = [f'<h2>{html.escape(result["label"])} on {html.escape(result["engine"])}</h2>',
             f'<p>{verdict(result)}</p>',
             *(f'<p class="note">{html.escape(note)}</p>' for note in result['notes']),
             grid(['reason', 'ticks without a plan'], list(map(list, result['reasons'].items()))),
             '<h3>Ticks: what each was answered by, and when its action left</h3>',
             timeline(lines, result['deadline_s']),
             '<h3>Actions, and the recorded ones (dashed)</h3>', *curves(lines, run.spec.action),
             '<h3>Time of a plan, and the deadline</h3>',
             histogram(lines, result['deadline_s']), '<h3>Durations</h3>', stages(result),
             *error_table(result),
             '<h3>What the cameras saw (outlined: tiles that changed since the frame before)</h3>',
             *(camera_strip(name, kept) for name, kept in run.thumbs.kept.items()),
             f'<p class="quiet">actions sha256 {result["sha256"]}; policy sha256 '
             f'{result["policy_sha256"]}</p>']
    return f'<section>{"".join(parts)}</section>'


def verdict(result: dict[str, Any]) -> str:
    """Return the run in two sentences."""
    answered = ', '.join(f'{n} by {rung}' for rung, n in result['late_plans_rungs'].items())
    rungs = ', '.join(f'{name} {n}' for name, n in result['rungs'].items() if n)
    return (f'{result["ticks"]} ticks: {html.escape(rungs)}. {result["late_plans"]} of '
            f'{result["plans"]} plans missed the deadline of their tick'
            f'{f" (answered {html.escape(answered)})" if answered else ""}; {result["missed"]} '
            f'actions left late. Cache: {result["cache"]["hits"]} hits, '
            f'{result["cache"]["misses"]} frames encoded.')


def stages(result: dict[str, Any]) -> str:
    """Return the percentiles of each duration [ms]."""
    names = {'latency_s': 'plan', 'encode_s': 'encode', 'denoise_s': 'denoise',
             'stamp_to_publish_s': 'image stamp to publish',
             'observation_age_s': 'age of the newest image', 'camera_skew_s': 'camera skew'}
    rows = [[text, *(None if v is None else 1e3 * v for v in result[key].values())]
            for key, text in names.items()]
    return grid(['[ms]', 'p50', 'p95', 'p99', 'max'], rows)


def error_table(result: dict[str, Any]) -> list[str]:
    """Return the error of each action at matched due times, if there are any."""
    rows = [[f'{name} [{e["unit"]}]', e['rmse'], e['mean'], e['max']]
            for name, e in (result['action_error'] or {}).items()]
    table = grid([f'error, {result["matched"]} matched ticks', 'rms', 'mean', 'largest'], rows)
    return ['<h3>Distance from the recorded actions</h3>', table] if rows else []


def grid(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a table; nothing where it has no rows. Its first column names the rows."""
    if not rows:
        return ''
    look = [' class="words"' if isinstance(value, str) else '' for value in rows[0]]
    top = ''.join(f'<th scope="col"{how}>{html.escape(name)}</th>'
                  for name, how in zip(columns, look))
    body = ''.join('<tr>' + ''.join(
        f'<td{how}>{html.escape(show(v))}</td>' if k else
        f'<th scope="row">{html.escape(show(v))}</th>'
        for k, (v, how) in enumerate(zip(row, look))) + '</tr>' for row in rows)
    return (f'<div class="wide" tabindex="0" role="region" aria-label="table by '
            f'{html.escape(columns[0])}, scrollable"><table><thead><tr>{top}</tr></thead><tbody>'
            f'{body}</tbody></table></div>')
