"""What a data set tells of the policy that was trained on it: statistics, rate, names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_policy_rt.errors import DataError
from diffusion_policy_rt.train.data import read_dataset
from diffusion_policy_rt.train.data.lerobot_meta import read_meta
from diffusion_policy_rt.train.importing.lerobot_config import ACTION, kind_of
from diffusion_policy_rt.train.importing.source import Source
from diffusion_policy_rt.train.importing.statistics import measured

FRAMES = 1000
"""Images that the statistics of pixels are taken from, evenly spaced."""


@dataclass(frozen=True)
class Learned:
    """A LeRobot data set's statistics by key, its rate, and its features."""

    statistics: dict[str, dict[str, np.ndarray]]
    rate: float
    features: Mapping[str, Any]

    def names(self, what: str, source: Source) -> Sequence[str]:
        """Return the names of the state's or the action's values; () where they are not told."""
        keys = list(source.state) if what == 'state' else [ACTION]
        found = [name for key in keys for name in self._names(key)]
        size = sum(len(m.offset) for m in source.state.values()) if what == 'state' else len(
            source.action.offset)
        return found if len(found) == len(set(found)) == size else ()

    def _names(self, key: str) -> Sequence[str]:
        names = self.features.get(key, {}).get('names') or ()
        if isinstance(names, Mapping):  # {'motors': [...]}
            names = next(iter(names.values()), ())
        return [str(name) for name in names] if isinstance(names, (list, tuple)) else ()


def learn(path: str) -> Learned:
    """Read a LeRobot data set (v2.0, v2.1, v3.0) and compute its statistics anew."""
    root = Path(path).expanduser()
    if not (root / 'meta/info.json').is_file():
        raise DataError(f'{root} is no LeRobot data set: it has no meta/info.json; give the '
                        'folder of one')
    meta = read_meta(root)
    keys = [key for key in meta.features if kind_of(key)]
    data = read_dataset(root, {key: (key,) for key in keys})
    return Learned({key: measured(_flat(data.streams[key])) for key in keys}, meta.fps,
                   meta.features)


def _flat(rows: np.ndarray) -> np.ndarray:
    """Return [N, D] values, or [N, 3] pixels in [0, 1] of images [N, H, W, 3]."""
    if rows.dtype != np.uint8:
        return rows.reshape(len(rows), -1)
    chosen = rows[np.linspace(0, len(rows) - 1, min(FRAMES, len(rows))).astype(int)]
    return chosen.reshape(-1, 3).astype(np.float32) / 255
