"""Reads demonstrations from one .npz file, or from the .npz files of a folder together."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from diffusion_policy_rt.errors import DataError
from diffusion_policy_rt.train.data.dataset import Dataset
from diffusion_policy_rt.train.data.guard import reading
from diffusion_policy_rt.train.data.streams import as_ends, pick_keys, to_stream

ENDS_KEY = 'episode_ends'


def read_npz(path: Path, keys: Mapping[str, Sequence[str]]) -> Dataset:
    """Read the streams in `keys`; the arrays may be spread over the files of the folder.

    Raises:
        DataError: a damaged file, a key in two files, or a missing key.
    """
    source = f'npz {"folder" if path.is_dir() else "file"} {path}'
    homes = _find_homes(path)
    if ENDS_KEY not in homes:
        raise DataError(
            f"{source}: has no array '{ENDS_KEY}'; add it (exclusive end row of each episode)"
        )
    found = pick_keys(keys, homes.keys() - {ENDS_KEY}, source)
    ends = as_ends(f'{homes[ENDS_KEY]}, {ENDS_KEY}', _load(homes[ENDS_KEY], ENDS_KEY))
    streams = {name: _read_stream(homes[key], key) for name, key in found.items()}
    return Dataset(streams, ends, None, source, found)


def _find_homes(path: Path) -> dict[str, Path]:
    homes: dict[str, Path] = {}
    for file in sorted(path.glob('*.npz')) if path.is_dir() else [path]:
        with reading(file), file.open('rb') as raw, np.load(raw) as arrays:
            names = list(arrays.files)
        for key in names:
            if key in homes:
                raise DataError(f"'{key}' is in both {homes[key]} and {file}; remove one")
            homes[key] = file
    return homes


def _load(file: Path, key: str) -> np.ndarray:
    with reading(f'{file}, {key}'), file.open('rb') as raw, np.load(raw) as arrays:
        return np.asarray(arrays[key])


def _read_stream(file: Path, key: str) -> np.ndarray:
    return to_stream(f'{file}, {key}', np.atleast_1d(_load(file, key)))
