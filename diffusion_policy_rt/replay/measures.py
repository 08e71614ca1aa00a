"""The sums of a replay's trace. Everything here is computed from its lines alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from diffusion_policy_rt.replay.seams import continuity
from diffusion_policy_rt.runtime.trace import Rung, percentiles
from diffusion_policy_rt.spec import VectorSpec

Line = Mapping[str, Any]


def column(lines: Sequence[Line], name: str, size: int) -> np.ndarray:
    """Return a vector of each line, float64 [N, size]; NaN where it is null."""
    rows = [[np.nan] * size if line[name] is None else line[name] for line in lines]
    return np.array(rows, float).reshape(len(rows), size)


def finite(lines: Sequence[Line], name: str) -> list[float]:
    """Return the values of a field that are not null."""
    return [line[name] for line in lines if line[name] is not None]


def figures(lines: Sequence[Line], action: VectorSpec, rate: float) -> dict[str, Any]:
    """Return the figures of `dprt replay --json` that a trace determines; `rate` is in Hz."""
    counts = Counter(line['rung'] for line in lines)
    late = [line['rung'] for line in lines if line['late_plan']]
    hits, encoded = (sum(line[key] for line in lines) for key in ('cache_hits', 'encoded'))
    plans, calls = finite(lines, 'plan_s'), sum(line['network_calls'] for line in lines)
    return {
        'ticks': len(lines),
        'missed': sum(line['missed'] for line in lines),
        'missed_rungs': dict(Counter(line['rung'] for line in lines if line['missed'])),
        'rungs': {rung.name.lower(): counts[rung.name.lower()] for rung in Rung},
        'late_plans': len(late),
        'late_plans_rungs': dict(Counter(late)),
        **errors(lines, action),
        **smoothness(lines, len(action), rate),
        'latency_s': percentiles(plans),
        **{name: percentiles(finite(lines, name)) for name in (
            'stamp_to_publish_s', 'encode_s', 'denoise_s', 'observation_age_s', 'camera_skew_s')},
        'plans': len(plans),
        'cache': {'hits': hits, 'misses': encoded,
                  'hit_ratio': hits / (hits + encoded) if hits + encoded else None},
        'network_calls': calls,
        'nfe': calls / len(plans) if plans else None,
    }


def errors(lines: Sequence[Line], action: VectorSpec) -> dict[str, Any]:
    """Return how far the actions lie from the recorded ones that are due at the same instants."""
    size = len(action)
    off = column(lines, 'action', size) - column(lines, 'recorded', size)
    off = off[np.isfinite(off).all(1)]
    if not len(off):
        return {'action_rmse': None, 'action_error': None, 'matched': 0, 'identical': 0}
    each = {name: {'unit': unit, 'rmse': float(np.sqrt((e**2).mean())),
                   'mean': float(e.mean()), 'max': float(np.abs(e).max())}
            for name, unit, e in zip(action.names, action.units, off.T)}
    return {'action_rmse': float(np.sqrt((off**2).mean())), 'action_error': each,
            'matched': len(off), 'identical': int((off == 0).all(1).sum())}


def smoothness(lines: Sequence[Line], size: int, rate: float) -> dict[str, Any]:
    """Return the jerk over the recorded one's, and the jumps at seams over those within chunks."""
    actions, recorded = column(lines, 'action', size), column(lines, 'recorded', size)
    own = jerk(actions, rate)
    both = np.isfinite(actions).all(1) & np.isfinite(recorded).all(1)
    theirs = jerk(np.where(both[:, None], recorded, np.nan), rate)
    same = jerk(np.where(both[:, None], actions, np.nan), rate)
    far = np.linalg.norm(np.diff(actions, axis=0), axis=1)
    seen = [line['observed_ns'] for line in lines]
    seam = np.array([a != b for a, b in zip(seen, seen[1:])], bool)
    known = np.isfinite(far)
    seams = continuity([{'seam_jumps': far[known & seam], 'chunk_jumps': far[known & ~seam]}])
    return {'jerk': own, 'recorded_jerk': theirs,
            'jerk_ratio': same / theirs if same is not None and theirs else None,
            'seams': seams, 'seam_jump_ratio': seams['ratio'] if seams else None}


def jerk(actions: np.ndarray, rate: float) -> float | None:
    """Return the root mean square of the third difference of [N, A] at `rate` [unit / s^3].

    A third difference counts where all four of its actions are finite; None where none is.
    """
    third = (np.diff(actions, n=3, axis=0) * rate**3) if len(actions) > 3 else actions[:0]
    squares = (third**2).sum(1)
    squares = squares[np.isfinite(squares)]
    return float(np.sqrt(squares.mean())) if len(squares) else None
