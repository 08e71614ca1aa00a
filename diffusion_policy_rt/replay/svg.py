"""The drawings of a replay's page, as SVG text: no script, no font, nothing to be loaded."""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from diffusion_policy_rt.replay.measures import column
from diffusion_policy_rt.replay.thumbs import KEPT, TILES, Thumb
from diffusion_policy_rt.runtime.trace import Rung
from diffusion_policy_rt.spec import VectorSpec

WIDTH, LEFT, RIGHT = 1040, 60, 10
MOST = 1500
"""Points drawn of a curve; of more, each stretch shows its extremes."""
COLOURS = {'fresh': '#2a9d8f', 'fewer': '#8ab17d', 'cached': '#e9c46a', 'chunk': '#457b9d',
           'hold': '#f4a261', 'stop': '#9a9a9a'}
LATE, OWN, THEIRS = '#e63946', '#264653', '#e76f51'
Line = Mapping[str, Any]


def drawing(height: int, parts: Sequence[str], title: str) -> str:
    """Return an SVG of this height."""
    return (f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{html.escape(title)}" '
            f'font-family="system-ui,sans-serif" font-size="11">{"".join(parts)}</svg>')


def text(x: float, y: float, words: str, anchor: str = 'start', colour: str = '#50626c') -> str:
    """Return a text."""
    return (f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">'
            f'{html.escape(words)}</text>')


def scale(low: float, high: float, start: float, end: float) -> Callable[[Any], Any]:
    """Return the map of low..high to start..end."""
    span = (high - low) or 1.0
    return lambda value: start + (value - low) / span * (end - start)


def seconds(lines: Sequence[Line]) -> np.ndarray:
    """Return the due times since the first tick [s]."""
    due = np.array([line['due_ns'] for line in lines], np.int64)
    return (due - due[0]) / 1e9 if len(due) else due.astype(float)


def path(x: np.ndarray, y: np.ndarray, colour: str, more: str = '') -> str:
    """Return a curve through finite points, interrupted where they are not finite."""
    x, y = thinned(x, y)
    words, pen = [], 'M'
    for a, b in zip(x, y):
        if not np.isfinite(b):
            pen = 'M'
            continue
        words.append(f'{pen}{a:.1f} {b:.1f}')
        pen = 'L'
    return f'<path d="{"".join(words)}" fill="none" stroke="{colour}" stroke-width="1.3" {more}/>'


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


def timeline(lines: Sequence[Line], deadline_s: float) -> str:
    """Draw each tick's rung, and how long after its instant its action left."""
    if not lines:
        return ''
    t = seconds(lines)
    to_x, top = scale(0, max(t[-1], 1e-3), LEFT, WIDTH - RIGHT), 110
    left = 1e3 * (deadline_s - np.array([line['slack_s'] for line in lines], float))
    to_y = scale(0, max(left.max(), 1e3 * deadline_s) * 1.1, top, 10)
    limit = to_y(1e3 * deadline_s)
    parts = [text(LEFT - 6, to_y(0), '0', 'end'),
             text(LEFT - 6, limit + 4, 'deadline', 'end', LATE),
             f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{limit:.1f}" y2="{limit:.1f}" '
             f'stroke="{LATE}"/>', path(to_x(t), to_y(left), OWN)]
    for row, rung in enumerate(Rung):
        name, y = rung.name.lower(), 128 + 16 * row
        parts.append(text(LEFT - 6, y + 9, name, 'end'))
        parts += spans(lines, to_x(t), name, y)
    late = [to_x(s) for s, line in zip(t, lines) if line['late_plan'] or line['missed']]
    parts += [f'<circle cx="{x:.1f}" cy="232" r="2.5" fill="{LATE}"/>' for x in late[:MOST]]
    parts += [text(LEFT - 6, 236, 'late', 'end', LATE), text(LEFT, 254, '0 s'),
              text(WIDTH - RIGHT, 254, f'{t[-1]:.1f} s', 'end')]
    return drawing(260, parts, 'timeline')


def spans(lines: Sequence[Line], x: np.ndarray, name: str, y: float) -> list[str]:
    """Return a bar for each stretch of ticks of one rung."""
    width = max(1.0, (x[-1] - x[0]) / max(1, len(x) - 1))
    found: list[list[float]] = []
    for at, line in zip(x, lines):
        if line['rung'] != name:
            continue
        if found and at - found[-1][1] < 0.6 * max(width, 1.2):
            found[-1][1] = at + width
        else:
            found.append([at, at + width])
    return [f'<rect x="{a:.1f}" y="{y}" width="{max(0.8, min(b, WIDTH) - a):.1f}" height="11" '
            f'fill="{COLOURS[name]}"/>' for a, b in found]


def curves(lines: Sequence[Line], action: VectorSpec) -> list[str]:
    """Draw each action over time, and the recorded one."""
    if not lines:
        return []
    t = seconds(lines)
    own, theirs = (column(lines, key, len(action)) for key in ('action', 'recorded'))
    to_x = scale(0, max(t[-1], 1e-3), LEFT, WIDTH - RIGHT)
    drawn = []
    for k, (name, unit) in enumerate(zip(action.names, action.units)):
        both = np.concatenate([own[:, k], theirs[:, k]])
        both = both[np.isfinite(both)]
        low, high = (both.min(), both.max()) if len(both) else (0.0, 1.0)
        to_y = scale(low, high, 120, 12)
        drawn.append(drawing(136, [
            text(LEFT - 6, 20, f'{high:.4g}', 'end'), text(LEFT - 6, 120, f'{low:.4g}', 'end'),
            text(LEFT - 6, 70, f'{name} [{unit}]', 'end', OWN),
            path(to_x(t), to_y(theirs[:, k]), THEIRS, 'stroke-dasharray="4 3"'),
            path(to_x(t), to_y(own[:, k]), OWN)], f'action {name}'))
    return drawn


def histogram(lines: Sequence[Line], deadline_s: float, bins: int = 60) -> str:
    """Draw how long plans took, and the deadline."""
    plans = 1e3 * np.array([line['plan_s'] for line in lines if line['plan_s'] is not None])
    limit = 1e3 * deadline_s
    if not len(plans):
        return ''
    end = 1.05 * max(plans.max(), limit)
    counts, edges = np.histogram(plans, bins, (0, end))
    to_x, to_y = scale(0, end, LEFT, WIDTH - RIGHT), scale(0, max(counts.max(), 1), 120, 12)
    bars = [f'<rect x="{to_x(a):.1f}" y="{to_y(n):.1f}" width="{to_x(b) - to_x(a) - 1:.1f}" '
            f'height="{120 - to_y(n):.1f}" fill="{LATE if a >= limit else COLOURS["fresh"]}"/>'
            for n, a, b in zip(counts, edges, edges[1:]) if n]
    x = to_x(limit)
    return drawing(140, [
        *bars, f'<line x1="{x:.1f}" x2="{x:.1f}" y1="8" y2="122" stroke="{LATE}"/>',
        text(x - 4, 18, f'deadline {limit:g} ms', 'end', LATE),
        text(LEFT - 6, 20, str(counts.max()), 'end'), text(LEFT, 136, '0 ms'),
        text(WIDTH - RIGHT, 136, f'{end:.3g} ms', 'end')], 'time of a plan')


def camera_strip(name: str, thumbs: Sequence[Thumb]) -> str:
    """Draw pictures of one camera, and outline the tiles that changed."""
    if not thumbs:
        return ''
    chosen = [thumbs[k] for k in np.unique(np.linspace(0, len(thumbs) - 1, KEPT).astype(int))]
    size = (WIDTH - 2) / KEPT - 4
    height = size * chosen[0].rgb.shape[0] / chosen[0].rgb.shape[1]
    parts = [text(0, 12, name)]
    for k, thumb in enumerate(chosen):
        x, y = k * (size + 4), 18.0
        parts.append(f'<image x="{x:.1f}" y="{y}" width="{size:.1f}" height="{height:.1f}" '
                     f'href="data:image/jpeg;base64,{jpeg(thumb.rgb)}"/>')
        tall, wide = height / TILES, size / TILES
        parts += [f'<rect x="{x + c * wide:.1f}" y="{y + r * tall:.1f}" width="{wide:.1f}" '
                  f'height="{tall:.1f}" fill="none" stroke="{LATE}" stroke-width="0.6"/>'
                  for r, c in zip(*np.nonzero(thumb.dirty))]
        since = (thumb.stamp_ns - chosen[0].stamp_ns) / 1e9
        parts.append(text(x, y + height + 12, f'{since:.1f} s'))
    return drawing(round(height + 36), parts, f'camera {name}')


def jpeg(rgb: np.ndarray) -> str:
    """Return uint8 [h, w, 3] RGB as a JPEG file in base64."""
    data = cv2.imencode('.jpg', cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))[1]
    return base64.b64encode(data.tobytes()).decode()
