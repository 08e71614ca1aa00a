"""Reads the description of a LeRobot data set: features, rate, and where each episode is."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusion_policy_rt.errors import DataError
from diffusion_policy_rt.train.data.guard import reading, require

VERSIONS = ('v2.0', 'v2.1', 'v3.0')


@dataclass(frozen=True)
class Clip:
    """Where the video of an episode is: its file and its start therein, seconds."""

    path: Path
    start_s: float


@dataclass(frozen=True)
class Episode:
    """Where an episode is: its table, rows, and the clip of each video feature."""

    index: int
    length: int
    table: Path
    clips: Mapping[str, Clip]


@dataclass(frozen=True)
class Meta:
    """What `meta/` says of the data set at `root`.

    Attributes:
        root: folder of the data set.
        fps: rows per second.
        features: key -> description (`dtype`, `shape`, and for cameras `info`).
        episodes: in the order of their rows.
    """

    root: Path
    fps: float
    features: Mapping[str, Any]
    episodes: Sequence[Episode]

    def is_video(self, key: str) -> bool:
        """Say whether a feature is kept in video files rather than in the tables."""
        return bool(self.features[key]['dtype'] == 'video')


def read_meta(root: Path) -> Meta:
    """Read `meta/info.json` and the episode list of format v2.0, v2.1, or v3.0.

    Raises:
        DataError: another format version, or a file that is missing or damaged.
    """
    path = root / 'meta/info.json'
    with reading(path):
        info = json.loads(path.read_text())
        version = info['codebase_version']
    if version not in VERSIONS:
        raise DataError(
            f"{path}: codebase_version is '{version}', readable are {', '.join(VERSIONS)}; "
            "convert the data set with LeRobot's own converter"
        )
    with reading(path):
        episodes = _episodes_v3(root, info) if version == 'v3.0' else _episodes_v2(root, info)
        _check_count(root, info['total_episodes'], len(episodes))
        return Meta(root, float(info['fps']), info['features'], episodes)


def _video_keys(info: Mapping[str, Any]) -> list[str]:
    return [key for key, feature in info['features'].items() if feature['dtype'] == 'video']


def _check_count(root: Path, total: int, n_listed: int) -> None:
    if total != n_listed or n_listed == 0:
        raise DataError(
            f'{root}/meta: info.json says {total} episodes, the episode list has {n_listed}; '
            'copy the data set again'
        )


def _episodes_v2(root: Path, info: Mapping[str, Any]) -> list[Episode]:
    path = root / 'meta/episodes.jsonl'
    with reading(path):
        rows = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
        rows.sort(key=lambda row: row['episode_index'])
        return [_episode_v2(root, info, row) for row in rows]


def _episode_v2(root: Path, info: Mapping[str, Any], row: Mapping[str, Any]) -> Episode:
    index = row['episode_index']
    names = {'episode_index': index, 'episode_chunk': index // info['chunks_size']}
    clips = {
        key: Clip(root / info['video_path'].format(video_key=key, **names), 0.0)
        for key in _video_keys(info)
    }
    return Episode(index, int(row['length']), root / info['data_path'].format(**names), clips)


def _episodes_v3(root: Path, info: Mapping[str, Any]) -> list[Episode]:
    parquet = require('pyarrow.parquet')
    rows: list[dict[str, Any]] = []
    for path in sorted((root / 'meta/episodes').glob('*/*.parquet')):
        with reading(path):
            table = parquet.ParquetFile(path)
            # The statistics of every feature are there too, and would dominate the time.
            names = [n for n in table.schema_arrow.names if not n.startswith('stats/')]
            rows += table.read(names).to_pylist()
    rows.sort(key=lambda row: row['episode_index'])
    with reading(root / 'meta/episodes'):
        return [_episode_v3(root, info, row) for row in rows]


def _episode_v3(root: Path, info: Mapping[str, Any], row: Mapping[str, Any]) -> Episode:
    clips = {}
    for key in _video_keys(info):
        names = {n: row[f'videos/{key}/{n}'] for n in ('chunk_index', 'file_index')}
        path = root / info['video_path'].format(video_key=key, **names)
        clips[key] = Clip(path, row[f'videos/{key}/from_timestamp'])
    names = {n: row[f'data/{n}'] for n in ('chunk_index', 'file_index')}
    length = row['dataset_to_index'] - row['dataset_from_index']
    return Episode(row['episode_index'], length, root / info['data_path'].format(**names), clips)
