"""How smoothly one chunk takes over from another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from diffusion_policy_rt.runtime import seams


def continuity(outcomes: Sequence[Mapping[str, Any]]) -> dict[str, float] | None:
    """Return how far targets jump where one chunk takes over from another; None without seams.

    The outcomes of many episodes are taken together, see `runtime.seams.continuity`.
    """
    seam, within = (np.concatenate([np.asarray(one[key], float) for one in outcomes])
                    for key in ('seam_jumps', 'chunk_jumps'))
    return seams.continuity(seam, within)
