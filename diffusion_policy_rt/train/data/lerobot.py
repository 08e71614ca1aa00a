"""Reads LeRobot data sets (v2.0, v2.1, v3.0): parquet tables, with or without video files."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_policy_rt.errors import DataError
from diffusion_policy_rt.train.data.dataset import Dataset
from diffusion_policy_rt.train.data.guard import reading, require
from diffusion_policy_rt.train.data.lerobot_meta import Episode, Meta, read_meta
from diffusion_policy_rt.train.data.lerobot_video import read_videos
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


def _read_stream(meta: Meta, key: str) -> np.ndarray:
    _check_no_depth(meta, key)
    if meta.is_video(key):
        times = (_to_array(t, meta, 'timestamp') for t in _columns(meta, 'timestamp'))
        return read_videos(key, meta.episodes, times, meta.fps)
    blocks = (_to_array(rows, meta, key) for rows in _columns(meta, key))
    return stack_blocks(f'{meta.root}, {key}', blocks, sum(e.length for e in meta.episodes))


def _check_no_depth(meta: Meta, key: str) -> None:
    feature = meta.features[key]
    notes = {**(feature.get('video_info') or {}), **(feature.get('info') or {})}
    if notes.get('is_depth_map') or notes.get('video.is_depth_map'):
        raise DataError(f'{meta.root}, {key}: is a depth map, which is not supported; use RGB')


def _columns(meta: Meta, key: str) -> Iterator[Any]:
    """Yield the arrow column `key` of each episode; each table is read once."""
    for path, group in groupby(meta.episodes, lambda episode: episode.table):
        table = _read_table(path, key)
        indices = table['episode_index'].to_numpy()
        for episode in group:
            rows = np.flatnonzero(indices == episode.index)
            _check_rows(episode, rows)
            yield table[key].slice(int(rows[0]), episode.length)


def _read_table(path: Path, key: str) -> Any:
    parquet = require('pyarrow.parquet')
    if not path.is_file():
        raise DataError(f'{path}: is missing; copy the data set again')
    with reading(path):
        table = parquet.ParquetFile(path).read([key, 'episode_index'])
    for column in (key, 'episode_index'):
        if column not in table.column_names:
            raise DataError(f"{path}: has no column '{column}'; copy the data set again")
    return table


def _check_rows(episode: Episode, rows: np.ndarray) -> None:
    contiguous = len(rows) > 0 and rows[-1] - rows[0] + 1 == len(rows)
    if len(rows) != episode.length or not contiguous:
        raise DataError(
            f'{episode.table}: has {len(rows)} rows of episode {episode.index}, where meta/ says '
            f'{episode.length} in sequence; copy the data set again'
        )


def _to_array(column: Any, meta: Meta, key: str) -> np.ndarray:
    feature = meta.features[key]
    with reading(f'{meta.root}, {key}', cure='make all rows as the shape in meta/info.json says'):
        if feature['dtype'] == 'image':
            return np.stack([_decode_image(meta, key, cell) for cell in column.to_pylist()])
        values = column.combine_chunks()
        while hasattr(values.type, 'value_field'):
            values = values.flatten()
        return np.asarray(values).reshape(len(column), *feature['shape'])


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
