"""How far targets jump where one chunk takes over from another, beside how far they go within one.

    chunk in force   a b c d            jump at the seam: from b, the last that was due, to x
    new chunk            x y z          within: x to y, y to z
"""

from __future__ import annotations

from collections import deque

import numpy as np

from diffusion_policy_rt.runtime.chunk import Chunk

KEPT = 1000
"""Jumps of each kind that the figures are of."""


def continuity(seam: np.ndarray, within: np.ndarray) -> dict[str, float] | None:
    """Return the figures of jumps at seams and within chunks, each [N]; None without either.

    `ratio` is the 99th percentile of the jumps at seams over that of the jumps within chunks.
    """
    if not len(seam) or not len(within):
        return None
    far = float(np.percentile(within, 99))
    return {'count': len(seam), 'seam_p50': float(np.median(seam)),
            'seam_p99': float(np.percentile(seam, 99)), 'chunk_p99': far,
            'ratio': float(np.percentile(seam, 99)) / max(far, 1e-9),
            'within_1.2': float((seam <= 1.2 * far).mean())}


class Seams:
    """Measures each plan. Jumps are Euclidean, in the policy's normalised actions."""

    def __init__(self, scale: tuple[float, ...]) -> None:
        self._scale = np.asarray(scale)
        self._seam: deque[float] = deque(maxlen=KEPT)
        self._within: deque[float] = deque(maxlen=KEPT)

    def note(self, old: Chunk | None, new: Chunk, now_ns: int) -> float | None:
        """Take in that `new` takes over at `now_ns`; return the jump, None where there is none."""
        rest = new.rest(now_ns)
        self._within.extend(self._far(np.diff(rest, axis=0)).tolist())
        if old is None or not len(rest) or not len(old.rest(now_ns - old.step_ns)):
            return None
        jump = float(self._far(rest[0] - old.rest(now_ns - old.step_ns)[0]))
        self._seam.append(jump)
        return jump

    def _far(self, difference: np.ndarray) -> np.ndarray:
        return np.linalg.norm(difference / self._scale, axis=-1)

    def figures(self) -> dict[str, float | None]:
        """Return percentiles of the newest jumps, and the ratio of the 99th ones; None without."""
        told = continuity(*(np.array(list(kept)) for kept in (self._seam, self._within))) or {}
        names = {'seam_jump.p50': 'seam_p50', 'seam_jump.p99': 'seam_p99',
                 'seam_jump_ratio': 'ratio'}
        return {name: told.get(key) for name, key in names.items()}
