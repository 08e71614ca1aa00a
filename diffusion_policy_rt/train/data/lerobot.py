"""Reads LeRobot data sets (v2.0, v2.1, v3.0): parquet tables, with or without video files."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_policy_rt.errors import DataError
from diffusion_policy_rt.train.data.dataset import Dataset
from diffusion_policy_rt.train.data.frames import Frames
from diffusion_policy_rt.train.data.guard import reading, require
from diffusion_policy_rt.train.data.lerobot_meta import Episode, Meta, read_meta
from diffusion_policy_rt.train.data.lerobot_video import VideoFrames
from diffusion_policy_rt.train.data.streams import pick_keys, stack_blocks


def read_lerobot(root: Path, keys: Mapping[str, Sequence[str]]) -> Dataset:
    """Read the streams in `keys` from a LeRobot data set folder.

    Raises:
        DataError: an unknown format version, a file that is missing or damaged, a table or
            video with fewer rows than its episode, or a depth map.
    """
    meta = read_meta(root)
    source = f'LeRobot data set {root}'
    found = pick_keys(keys, meta.features.keys(), source)
    ends = np.cumsum([episode.length for episode in meta.episodes], dtype=np.int64)
    streams = {name: _read_stream(meta, key) for name, key in found.items()}
    return Dataset(streams, ends, meta.fps, source, found)


def _read_stream(meta: Meta, key: str) -> np.ndarray | Frames:
    _check_no_depth(meta, key)
    if meta.is_video(key):
        times = (_to_array(t, meta, 'timestamp') for t in _columns(meta, 'timestamp'))
        return VideoFrames(key, meta.episodes, times, meta.fps)
    if meta.features[key]['dtype'] == 'image':
        return TableFrames(meta, key)
    blocks = (_to_array(rows, meta, key) for rows in _columns(meta, key))
    return stack_blocks(f'{meta.root}, {key}', blocks, sum(e.length for e in meta.episodes))


def _check_no_depth(meta: Meta, key: str) -> None:
    feature = meta.features[key]
    notes = {**(feature.get('video_info') or {}), **(feature.get('info') or {})}
    if notes.get('is_depth_map') or notes.get('video.is_depth_map'):
        raise DataError(f'{meta.root}, {key}: is a depth map, which is not supported; use RGB')


def _columns(meta: Meta, key: str) -> Iterator[Any]:
    """Yield the arrow column `key` of each episode; each table is read once."""
    for table, group in _tables(meta, key):
        for episode, first in group:
            yield table[key].slice(first, episode.length)


def _tables(meta: Meta, *keys: str) -> Iterator[tuple[Any, Iterator[tuple[Episode, int]]]]:
    """Yield columns of each table, with its episodes and the row that each begins at."""
    for path, group in groupby(meta.episodes, lambda episode: episode.table):
        table = _read_table(path, *keys)
        indices = table['episode_index'].to_numpy()
        yield table, ((episode, _first_row(episode, np.flatnonzero(indices == episode.index)))
                      for episode in group)


def _read_table(path: Path, *keys: str) -> Any:
    with reading(path):
        table = _open_table(path, *keys).read([*keys, 'episode_index'])
    return table


def _open_table(path: Path, *keys: str) -> Any:
    parquet = require('pyarrow.parquet')
    if not path.is_file():
        raise DataError(f'{path}: is missing; copy the data set again')
    with reading(path):
        table = parquet.ParquetFile(path)
    for column in (*keys, 'episode_index'):
        if column not in table.schema_arrow.names:
            raise DataError(f"{path}: has no column '{column}'; copy the data set again")
    return table


def _first_row(episode: Episode, rows: np.ndarray) -> int:
    contiguous = len(rows) > 0 and rows[-1] - rows[0] + 1 == len(rows)
    if len(rows) != episode.length or not contiguous:
        raise DataError(
            f'{episode.table}: has {len(rows)} rows of episode {episode.index}, where meta/ says '
            f'{episode.length} in sequence; copy the data set again'
        )
    return int(rows[0])


def _to_array(column: Any, meta: Meta, key: str) -> np.ndarray:
    feature = meta.features[key]
    with reading(f'{meta.root}, {key}', cure='make all rows as the shape in meta/info.json says'):
        values = column.combine_chunks()
        while hasattr(values.type, 'value_field'):
            values = values.flatten()
        return np.asarray(values).reshape(len(column), *feature['shape'])


class TableFrames(Frames):
    """Images that are embedded in the tables; row groups with wanted rows are read, no others."""

    def __init__(self, meta: Meta, key: str) -> None:
        """Find out where the rows are; DataError where the first image cannot be decoded."""
        self._meta, self._key = meta, key
        self._files = list(dict.fromkeys(episode.table for episode in meta.episodes))
        number = {path: at for at, path in enumerate(self._files)}
        self._file = np.concatenate([np.full(e.length, number[e.table]) for e in meta.episodes])
        self._row = np.concatenate([first + np.arange(episode.length)
                                    for _, group in _tables(meta) for episode, first in group])
        for path in self._files:
            _open_table(path, key)
        super().__init__(len(self._row), *next(self._decoded(np.arange(1))).shape[:2])

    def each(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the images of these rows."""
        for row, image in zip(rows, self._decoded(rows)):
            if image.shape != self.shape[1:]:
                raise DataError(f'{self._meta.root}, {self._key}: row {row} has shape '
                                f'{list(image.shape)}, the first {list(self.shape[1:])}; all rows '
                                'must have one shape')
            yield image

    def _decoded(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        for number, group in groupby(rows, lambda row: self._file[row]):
            cells = self._cells(self._files[number], self._row[list(group)])
            yield from (_decode_image(self._meta, self._key, cell) for cell in cells)

    def _cells(self, path: Path, rows: np.ndarray) -> Iterator[Any]:
        with reading(path):
            table = _open_table(path, self._key)
            sizes = [table.metadata.row_group(g).num_rows for g in range(table.num_row_groups)]
            starts = np.cumsum([0, *sizes])
            for group, found in groupby(
                    rows, lambda row: int(np.searchsorted(starts, row, 'right')) - 1):
                column = table.read_row_group(group, [self._key])[self._key]
                yield from (column[int(row - starts[group])].as_py() for row in found)


def _decode_image(meta: Meta, key: str, cell: Mapping[str, Any]) -> np.ndarray:
    cv2 = require('cv2')
    name = f'{meta.root}, {key}: image {cell["path"]}'
    if not cell['bytes']:
        raise DataError(f'{name} is not embedded in its table; embed the images or store video')
    data = np.frombuffer(cell['bytes'], np.uint8)
    bgr = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if bgr is None:
        raise DataError(f'{name} is damaged; copy the data set again')
    return np.ascontiguousarray(bgr[..., ::-1])
