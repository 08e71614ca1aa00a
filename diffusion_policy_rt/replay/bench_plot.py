"""A picture of bench rows: one bar per row, on a logarithmic scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

from diffusion_policy_rt.files import whole_file

matplotlib.use('Agg')
import matplotlib.pyplot as plt  # noqa: E402

SAME = ('policy', 'cameras', 'image', 'horizon')
"""Facts that are named only where the rows differ in them."""


def label(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """Return what tells a row from the others."""
    told = [str(row[key]) if key == 'policy' else f'{key} {row[key]}' for key in SAME
            if len({other.get(key) for other in rows}) > 1]
    steps = [f'{row["steps"]} steps'] if row['what'] == 'plan' else []
    return ', '.join([row['what'], *told, f'{row["engine"]} {row["dtype"]}', *steps,
                      f'{row["threads"]} threads'])


def write_plot(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Draw the median of every row, the 99th percentile as its whisker, in milliseconds."""
    ranked = sorted(rows, key=lambda row: (row['what'], -row['p50_s']))
    p50, p99 = ([1e3 * row[key] for row in ranked] for key in ('p50_s', 'p99_s'))
    figure, axes = plt.subplots(figsize=(9, 0.8 + 0.28 * len(ranked)), layout='constrained')
    axes.barh([label(row, rows) for row in ranked], p50,
              xerr=[[0.0] * len(ranked), [b - a for a, b in zip(p50, p99)]],
              color=['tab:blue' if 'int8' in row['dtype'] else 'tab:gray' for row in ranked])
    axes.set(xscale='log', xlabel='ms per call: median, and 99th percentile')
    axes.grid(axis='x', which='both', alpha=0.3)
    with whole_file(path) as partial:
        figure.savefig(partial, dpi=100, format='png')
    plt.close(figure)
