"""Reads demonstrations from one .npz file, or from the .npz files of a folder together."""

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

import numpy as np

from diffusion_policy_rt.errors import DataError
from diffusion_policy_rt.train.data.dataset import Dataset
from diffusion_policy_rt.train.data.frames import Frames
from diffusion_policy_rt.train.data.guard import reading
from diffusion_policy_rt.train.data.streams import (
    as_ends, check_channels, is_image, pick_keys, to_stream)

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


def _read_stream(file: Path, key: str) -> np.ndarray | Frames:
    with reading(f'{file}, {key}'), _Member(file, key) as member:
        images = is_image(member.shape, member.dtype) and not member.fortran
    if images:
        return NpzFrames(file, key, member.shape)
    return to_stream(f'{file}, {key}', np.atleast_1d(_load(file, key)))


class _Member:
    """One array of an .npz file, open for reading from its beginning."""

    def __init__(self, file: Path, key: str) -> None:
        self._archive = zipfile.ZipFile(file)
        self.raw = self._archive.open(f'{key}.npy')
        version = np.lib.format.read_magic(self.raw)
        read = {(1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0}[version]
        self.shape, self.fortran, self.dtype = read(self.raw)

    def __enter__(self) -> '_Member':
        return self

    def __exit__(self, *_: object) -> None:
        self._archive.close()


class NpzFrames(Frames):
    """Images of an .npz file, which can be read from its beginning only."""

    def __init__(self, file: Path, key: str, shape: Sequence[int]) -> None:
        self._file, self._key, self._name = file, key, f'{file}, {key}'
        check_channels(self._name, shape)
        super().__init__(*shape[:3])

    def each(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the images of these rows; all before them are read as well."""
        at, (_, *shape) = 0, self.shape
        with reading(self._name), _Member(self._file, self._key) as member:
            size = member.dtype.itemsize * int(np.prod(shape))
            for row in rows:
                skip(member.raw, (row - at) * size)
                image = np.frombuffer(member.raw.read(size), member.dtype).reshape(1, *shape)
                at = row + 1
                yield to_stream(self._name, image)[0]


def skip(raw: IO[bytes], count: int) -> None:
    """Read on by so many bytes, a megabyte at a time."""
    while count > 0:
        count -= len(raw.read(min(count, 1 << 20))) or count
