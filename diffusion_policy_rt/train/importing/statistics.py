"""From statistics and a mode to the affine map that normalises."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from diffusion_policy_rt.errors import BundleError

EPS = 1e-8
PAIRS = {'MEAN_STD': ('mean', 'std'), 'MIN_MAX': ('min', 'max'), 'QUANTILES': ('q01', 'q99'),
         'QUANTILE10': ('q10', 'q90')}
"""LeRobot's modes, and the statistics that each needs."""


class Affine(NamedTuple):
    """normalised = (value - offset) / scale."""

    offset: np.ndarray
    """float64 [D] in units."""
    scale: np.ndarray
    """float64 [D], above zero."""


def affine(stats: Mapping[str, np.ndarray], mode: str, size: int, where: str) -> Affine:
    """Return the map of LeRobot's normalisation `mode` for `size` values.

    BundleError where a statistic is missing, not finite or out of order: such policies give
    actions that are no numbers. A value that never changed keeps LeRobot's tiny range.
    """
    if mode == 'IDENTITY':
        return Affine(np.zeros(size), np.ones(size))
    if mode not in PAIRS:
        raise BundleError(f'{where}: normalisation {mode!r} is unknown; known: IDENTITY, '
                          f'{", ".join(PAIRS)}')
    first, second = (_take(stats, name, size, where) for name in PAIRS[mode])
    if (second < (0 if mode == 'MEAN_STD' else first)).any():
        raise BundleError(f'{where}: the statistic {PAIRS[mode][1]!r} is too small to be one; '
                          'take another checkpoint')
    if mode == 'MEAN_STD':
        return Affine(first, second + EPS)
    scale = np.where(second > first, second - first, EPS) / 2
    return Affine(first + scale, scale)


def _take(stats: Mapping[str, np.ndarray], name: str, size: int, where: str) -> np.ndarray:
    if name not in stats:
        raise BundleError(f'{where}: the statistic {name!r} is missing; give the data that the '
                          'policy was trained on with --data, to compute it')
    values = np.asarray(stats[name], float).reshape(-1)
    if values.size != size or not np.isfinite(values).all():
        raise BundleError(f'{where}: the statistic {name!r} must be {size} finite values, found '
                          f'{values.tolist()[:8]}; give the training data with --data')
    return values


def measured(values: np.ndarray) -> dict[str, np.ndarray]:
    """Return every statistic of data [N, D], as LeRobot names them."""
    made = {'min': values.min(0), 'max': values.max(0), 'mean': values.mean(0, dtype=float),
            'std': values.std(0, dtype=float)}
    quantiles = {'q01': 0.01, 'q10': 0.1, 'q90': 0.9, 'q99': 0.99}
    return made | {name: np.quantile(values, q, axis=0) for name, q in quantiles.items()}
