"""What a replay's drawings are made of, as SVG text: no script, no font, nothing to be loaded."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from diffusion_policy_rt.replay.style import GRID, QUIET

WIDTH, LEFT, RIGHT = 1040, 80, 12
END = WIDTH - RIGHT
MOST = 1500
"""Points drawn of a curve; of more, each stretch shows its extremes."""
MARKS = 8
"""Marks of an axis, about."""


def drawing(height: int, parts: Sequence[str], title: str) -> str:
    """Return an SVG of this height, which a screen reader calls by its title."""
    label = html.escape(title)
    return (f'<div class="wide" tabindex="0" role="region" aria-label="{label}, scrollable">'
            f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{label}" '
            f'font-family="system-ui,sans-serif" font-size="13">{"".join(parts)}</svg></div>')


def text(x: float, y: float, words: str, anchor: str = 'start', colour: str = QUIET) -> str:
    """Return a text."""
    return (f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">'
            f'{html.escape(words)}</text>')


def line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    """Return a straight line."""
    return f'<path d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}" stroke="{colour}"/>'


def box(x: float, y: float, width: float, height: float, more: str) -> str:
    """Return a rectangle."""
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" {more}/>'


def dot(x: float, y: float, colour: str) -> str:
    """Return a filled circle."""
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour}"/>'


def scale(low: float, high: float, start: float, end: float) -> Callable[[Any], Any]:
    """Return the map of low..high to start..end."""
    span = (high - low) or 1.0
    return lambda value: start + (value - low) / span * (end - start)


def axis(end: float, unit: str, top: float, bottom: float) -> list[str]:
    """Return marks of round values from 0 to `end` over the whole width, named at the bottom."""
    to_x, step = scale(0, end, LEFT, END), round_step(end)
    values = [k * step for k in range(int(end / step + 1e-9) + 1)]
    return [part for value in values for part in (
        line(to_x(value), top, to_x(value), bottom, GRID),
        text(to_x(value), bottom + 15, f'{value:.6g}{"" if value else f" {unit}"}',
             'end' if value and END - to_x(value) < 12 else 'middle'))]


def round_step(end: float) -> float:
    """Return 1, 2 or 5 times a power of ten, of which about MARKS make `end`."""
    least = end / MARKS
    power = 10.0 ** math.floor(math.log10(least))
    return next(k * power for k in (1, 2, 5, 10) if k * power >= least * (1 - 1e-9))


def path(x: np.ndarray, y: np.ndarray, colour: str, more: str = '') -> str:
    """Return a curve through finite points, interrupted where they are not; dots for lone ones."""
    x, y = thinned(x, y)
    known = np.flatnonzero(np.isfinite(y))
    runs = np.split(known, np.flatnonzero(np.diff(known) > 1) + 1)
    words = ''.join('M' + 'L'.join(f'{a:.1f} {b:.1f}' for a, b in zip(x[run], y[run]))
                    for run in runs if len(run) > 1)
    return f'<path d="{words}" fill="none" stroke="{colour}" stroke-width="1.5" {more}/>' + (
        ''.join(dot(x[run[0]], y[run[0]], colour) for run in runs if len(run) == 1))


def thinned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return at most about MOST points, of each stretch the lowest and the highest."""
    if len(x) <= MOST:
        return x, y
    kept = []
    for part in np.array_split(np.arange(len(x)), MOST // 2):
        values = np.where(np.isfinite(y[part]), y[part], np.nan)
        if np.isnan(values).all():
            kept.append(part[0])
        else:
            kept += sorted({part[np.nanargmin(values)], part[np.nanargmax(values)]})
    return x[kept], y[kept]
