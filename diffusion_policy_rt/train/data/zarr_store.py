"""Reads the zarr replay buffer in which Diffusion Policy publishes its demonstrations."""

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_policy_rt.errors import DataError
from diffusion_policy_rt.train.data.dataset import Dataset
from diffusion_policy_rt.train.data.frames import Frames
from diffusion_policy_rt.train.data.guard import reading, require
from diffusion_policy_rt.train.data.streams import (
    as_ends, check_channels, is_image, pick_keys, stack_blocks, to_stream)

# Rows decoded at a time: enough to hide the cost of a call, little beside the whole stream.
BLOCK_ROWS = 256
CURE = 'copy the data set again, or install the codec that it names'
_ENDS_FILES = ('meta/episode_ends/.zarray', 'meta/episode_ends/zarr.json')


def read_zarr(path: Path, keys: Mapping[str, Sequence[str]]) -> Dataset:
    """Read `data/<key>` arrays and `meta/episode_ends` of a zarr folder or zipped zarr.

    Raises:
        DataError: zarr is not installed, or an array or chunk is missing or damaged.
    """
    source = f'zarr {"folder" if path.is_dir() else "zip"} {path}'
    with reading(path, cure=CURE), _opened(path) as root:
        found = pick_keys(keys, set(root['data'].array_keys()), source)
        ends = as_ends(f'{path}, meta/episode_ends', _array(path, root, 'meta/episode_ends')[:])
        streams = {name: _read_stream(path, root, f'data/{key}') for name, key in found.items()}
    return Dataset(streams, ends, None, source, found)


def zip_prefix(path: Path) -> str | None:
    """Return the folder inside the zip that holds the replay buffer, None if there is none."""
    with reading(path), zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.endswith(_ENDS_FILES):
                return name.partition('meta/episode_ends/')[0].rstrip('/')
    return None


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    zarr = require('zarr')
    if path.is_dir():
        yield zarr.open_group(str(path), mode='r')
        return
    with zarr.storage.ZipStore(path, mode='r') as store:
        yield zarr.open_group(store, path=zip_prefix(path), mode='r')


def _array(path: Path, root: Any, key: str) -> Any:
    with reading(f'{path}, {key}', cure=CURE):
        array = root[key]
        stored = array.nchunks_initialized
    # zarr reads an absent chunk as zeros, which would train on blank data without a word.
    if stored != array.nchunks:
        raise DataError(
            f'{path}, {key}: {array.nchunks - stored} of {array.nchunks} chunks are missing; '
            'copy the data set again, or rewrite it with write_empty_chunks=True'
        )
    return array


def _read_stream(path: Path, root: Any, key: str) -> np.ndarray | Frames:
    array = _array(path, root, key)
    if is_image(array.shape, array.dtype):
        check_channels(f'{path}, {key}', array.shape)
        return ZarrFrames(path, key, array.shape)
    starts = range(0, array.shape[0], _step(array))
    return stack_blocks(f'{path}, {key}', (_block(path, array, key, start) for start in starts),
                        array.shape[0])


def _step(array: Any) -> int:
    return int(array.chunks[0] * -(-BLOCK_ROWS // array.chunks[0]))


def _block(path: Path, array: Any, key: str, start: int) -> np.ndarray:
    with reading(f'{path}, {key}', cure=CURE):
        return np.asarray(array[start : start + _step(array)])


class ZarrFrames(Frames):
    """Images of a zarr array; the blocks that hold wanted rows are read, and no others."""

    def __init__(self, path: Path, key: str, shape: Sequence[int]) -> None:
        super().__init__(*shape[:3])
        self._path, self._key = path, key

    def each(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the images of these rows."""
        name = f'{self._path}, {self._key}'
        with reading(name, cure=CURE), _opened(self._path) as root:
            array = root[self._key]
            step = _step(array)
            for start in np.unique(rows // step) * step:
                block = _block(self._path, array, self._key, int(start))
                within = rows[(rows >= start) & (rows < start + step)] - start
                yield from (to_stream(name, block[row:row + 1])[0] for row in within)
