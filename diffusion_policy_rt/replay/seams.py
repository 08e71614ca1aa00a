"""How smoothly one chunk takes over from another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def continuity(outcomes: Sequence[Mapping[str, Any]]) -> dict[str, float] | None:
    """Return how far targets jump where one chunk takes over from another; None without seams.

    `ratio` is the 99th percentile of the jumps at seams over that of the jumps within chunks.
    """
    seam, within = (np.concatenate([np.asarray(one[key], float) for one in outcomes])
                    for key in ('seam_jumps', 'chunk_jumps'))
    if not len(seam) or not len(within):
        return None
    far = float(np.percentile(within, 99))
    return {'count': len(seam), 'seam_p50': float(np.median(seam)),
            'seam_p99': float(np.percentile(seam, 99)), 'chunk_p99': far,
            'ratio': float(np.percentile(seam, 99)) / max(far, 1e-9),
            'within_1.2': float((seam <= 1.2 * far).mean())}
