"""Two policies on the same seeds: the interval of their paired difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from diffusion_policy_rt.errors import DataError
from diffusion_policy_rt.replay.evaluate import bootstrap


def paired_difference(ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]],
                      key: str = 'max_coverage') -> dict[str, Any]:
    """Return the mean of ours minus theirs over the same seeds, with its 95 % interval.

    Both are `per_episode` of `dprt eval --json`, in any order. Pairing takes out what the start
    states contribute, so the interval is narrower than that of two separate means. Raises
    DataError where the seeds are not the same ones.
    """
    left, right = ({e['seed']: float(e[key]) for e in episodes} for episodes in (ours, theirs))
    odd = sorted(left.keys() ^ right.keys())
    if odd or not left:
        raise DataError('a comparison needs the same seeds on both sides; '
                        + (f'only one has seed {odd[0]}' if odd else 'there are none'))
    difference = np.array([left[seed] - right[seed] for seed in sorted(left)])
    return {'key': key, 'episodes': len(difference), 'difference': float(difference.mean()),
            'ci95': bootstrap(difference)}
