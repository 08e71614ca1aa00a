"""The drawings of a replay's page: ticks, actions, times of plans, and what the cameras saw."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from diffusion_policy_rt.replay.measures import column
from diffusion_policy_rt.replay.style import COLOURS, LATE, OWN, THEIRS
from diffusion_policy_rt.replay.svg import (
    END, LEFT, WIDTH, axis, box, dot, drawing, line, path, scale, text)
from diffusion_policy_rt.replay.thumbs import KEPT, TILES, Thumb
from diffusion_policy_rt.runtime.trace import Rung
from diffusion_policy_rt.spec import VectorSpec

Line = Mapping[str, Any]
NAMES = LEFT - 8
"""Where the names beside a drawing end."""
SHORTEST = 0.1
"""What a drawing over time spans at least [s]."""
ROWS, PITCH = 142, 18
"""Where the rows of the rungs begin, and how far they lie apart."""


def seconds(lines: Sequence[Line]) -> np.ndarray:
    """Return the due times since the first tick [s]."""
    due = np.array([tick['due_ns'] for tick in lines], np.int64)
    return (due - due[0]) / 1e9 if len(due) else due.astype(float)


def timeline(lines: Sequence[Line], deadline_s: float) -> str:
    """Draw each tick's rung, and how long after its instant its action left."""
    if not lines:
        return ''
    t = seconds(lines)
    end = max(t[-1], SHORTEST)
    to_x, limit = scale(0, end, LEFT, END), 1e3 * deadline_s
    bottom = ROWS + PITCH * (len(Rung) + 1)
    left = limit - 1e3 * np.array([tick['slack_s'] for tick in lines], float)
    to_y = scale(0, max(left.max(), limit), 124, 24)
    late = [tick['late_plan'] or tick['missed'] for tick in lines]
    parts = [*axis(end, 's', 24, bottom), text(NAMES, to_y(0) + 4, '0 ms', 'end'),
             line(LEFT, to_y(limit), END, to_y(limit), LATE),
             text(LEFT, to_y(limit) - 6, f'deadline {limit:g} ms', 'start', LATE),
             path(to_x(t), to_y(left), OWN)]
    for row, rung in enumerate(Rung):
        name, y = rung.name.lower(), ROWS + PITCH * row
        parts.append(text(NAMES, y + 11, name, 'end'))
        parts += spans(lines, to_x(t), name, y)
    at = sorted({round(float(x)) for x, is_late in zip(to_x(t), late) if is_late})
    parts += [dot(x, bottom - 8, LATE) for x in at]
    parts.append(text(NAMES, bottom - 4, 'late', 'end', LATE))
    counts = Counter(tick['rung'] for tick in lines)
    told = ', '.join(f'{rung} {count}' for rung, count in counts.items())
    return drawing(bottom + 22, parts, f'{len(lines)} ticks over {end:.4g} s: {told}; {sum(late)} '
                                       f'late')


def spans(lines: Sequence[Line], x: np.ndarray, name: str, y: float) -> list[str]:
    """Return a bar for each stretch of ticks of one rung."""
    width = max(1.0, (x[-1] - x[0]) / max(1, len(x) - 1))
    found: list[list[float]] = []
    for at, tick in zip(x, lines):
        if tick['rung'] != name:
            continue
        if found and at - found[-1][1] < 0.6 * max(width, 1.2):
            found[-1][1] = at + width
        else:
            found.append([at, at + width])
    return [box(a, y, max(1.5, min(b, END) - a), 12, f'fill="{COLOURS[name]}"') for a, b in found]


def curves(lines: Sequence[Line], action: VectorSpec) -> list[str]:
    """Draw each action over time, and the recorded one."""
    if not lines:
        return []
    t = seconds(lines)
    own, theirs = (column(lines, key, len(action)) for key in ('action', 'recorded'))
    end = max(t[-1], SHORTEST)
    to_x, drawn = scale(0, end, LEFT, END), []
    for k, (name, unit) in enumerate(zip(action.names, action.units)):
        both = np.concatenate([own[:, k], theirs[:, k]])
        both = both[np.isfinite(both)]
        low, high = (both.min(), both.max()) if len(both) else (0.0, 1.0)
        to_y = scale(low, high, 128, 30)
        drawn.append(drawing(152, [
            *axis(end, 's', 26, 132), text(LEFT, 14, f'{name} [{unit}]', 'start', OWN),
            text(NAMES, 34, f'{high:.4g}', 'end'), text(NAMES, 132, f'{low:.4g}', 'end'),
            path(to_x(t), to_y(theirs[:, k]), THEIRS, 'stroke-dasharray="4 3"'),
            path(to_x(t), to_y(own[:, k]), OWN)],
            f'{name} over time, from {low:.4g} to {high:.4g} {unit}'))
    return drawn


def histogram(lines: Sequence[Line], deadline_s: float, bins: int = 60) -> str:
    """Draw how long plans took, and the deadline."""
    plans = 1e3 * np.array([tick['plan_s'] for tick in lines if tick['plan_s'] is not None])
    limit = 1e3 * deadline_s
    if not len(plans):
        return ''
    end = 1.05 * max(plans.max(), limit)
    counts, edges = np.histogram(plans, bins, (0, end))
    to_x, to_y = scale(0, end, LEFT, END), scale(0, counts.max(), 128, 26)
    bars = [box(to_x(a), to_y(n), to_x(b) - to_x(a) - 1, 128 - to_y(n),
                f'fill="{LATE if a >= limit else COLOURS["fresh"]}"')
            for n, a, b in zip(counts, edges, edges[1:]) if n]
    x = to_x(limit)
    return drawing(152, [
        *axis(end, 'ms', 22, 132), *bars, line(x, 6, x, 132, LATE),
        text(x - 5, 16, f'deadline {limit:g} ms', 'end', LATE),
        text(NAMES, 34, f'{counts.max()} plans', 'end')],
        f'time of {len(plans)} plans: median {np.median(plans):.4g} ms, largest '
        f'{plans.max():.4g} ms, deadline {limit:g} ms')


def camera_strip(name: str, thumbs: Sequence[Thumb]) -> str:
    """Draw pictures of one camera, and outline the tiles that changed."""
    if not thumbs:
        return ''
    chosen = [thumbs[k] for k in np.unique(np.linspace(0, len(thumbs) - 1, KEPT).astype(int))]
    size = (WIDTH - 2) / KEPT - 4
    height, parts = size * chosen[0].rgb.shape[0] / chosen[0].rgb.shape[1], [text(0, 13, name)]
    for k, thumb in enumerate(chosen):
        x, y = 1 + k * (size + 4), 20.0
        parts.append(f'<image x="{x:.1f}" y="{y}" width="{size:.1f}" height="{height:.1f}" '
                     f'href="data:image/jpeg;base64,{jpeg(thumb.rgb)}"/>')
        parts += outlines(thumb.dirty, x, y, size, height)
        since = (thumb.stamp_ns - chosen[0].stamp_ns) / 1e9
        parts.append(text(x, y + height + 15, f'{since:.1f} s'))
    return drawing(round(height + 42), parts, f'{len(chosen)} pictures of camera {name}')


def outlines(dirty: np.ndarray, x: float, y: float, width: float, height: float) -> list[str]:
    """Return the outlines of tiles bool [TILES, TILES]; one of all where all of them changed."""
    look = f'fill="none" stroke="{LATE}" stroke-width="0.8"'
    if dirty.all():
        return [box(x, y, width, height, look)]
    tall, wide = height / TILES, width / TILES
    return [box(x + c * wide, y + r * tall, wide, tall, look)
            for r, c in zip(*np.nonzero(dirty))]


def jpeg(rgb: np.ndarray) -> str:
    """Return uint8 [h, w, 3] RGB as a JPEG file in base64."""
    data = cv2.imencode('.jpg', cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))[1]
    return base64.b64encode(data.tobytes()).decode()
