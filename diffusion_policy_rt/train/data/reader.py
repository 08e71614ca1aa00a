"""Finds out which format a data set has, from its content, and reads it."""

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from diffusion_policy_rt.errors import DataError
from diffusion_policy_rt.train.data.dataset import Dataset
from diffusion_policy_rt.train.data.lerobot import read_lerobot
from diffusion_policy_rt.train.data.npz import read_npz
from diffusion_policy_rt.train.data.zarr_store import read_zarr, zip_prefix

FORMATS = ('a folder of .npz files, a zarr replay buffer (may be zipped), a LeRobot data set, or '
           'a bag of ROS')
_ZARR_MARKS = ('.zgroup', 'zarr.json', 'meta/episode_ends')


def read_dataset(path: str | Path, keys: Mapping[str, Sequence[str]]) -> Dataset:
    """Read a demonstration data set; its images stay in their files until they are asked for.

    Args:
        path: .npz file or folder of them, zarr replay buffer (folder or zip), or LeRobot
            data set folder (v2.0, v2.1, v3.0).
        keys: stream name -> its alternative keys in the source, in order of preference.

    Raises:
        DataError: the path is no such data set, is damaged, or lacks a stream. An image that is
            damaged is told when it is read.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        return _read_folder(path, keys)
    if not path.is_file():
        raise DataError(f'{path}: there is no such file or folder; give the path of {FORMATS}')
    return _read_file(path, keys)


def _read_folder(path: Path, keys: Mapping[str, Sequence[str]]) -> Dataset:
    if (path / 'meta/info.json').is_file():
        return read_lerobot(path, keys)
    if any((path / mark).exists() for mark in _ZARR_MARKS):
        return read_zarr(path, keys)
    if any(path.glob('*.npz')):
        return read_npz(path, keys)
    there = sorted(entry.name for entry in path.iterdir())
    what = f'holds no data set, only {", ".join(there[:8])}' if there else 'is an empty folder'
    raise DataError(f'{path}: {what}; give the path of {FORMATS}')


def _read_file(path: Path, keys: Mapping[str, Sequence[str]]) -> Dataset:
    if path.suffix == '.npz':
        return read_npz(path, keys)
    if zipfile.is_zipfile(path) and zip_prefix(path) is not None:
        return read_zarr(path, keys)
    raise DataError(f'{path}: is no data set, or a damaged one; give the path of {FORMATS}')
