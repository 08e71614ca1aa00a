"""Decodes the video files of a LeRobot data set: one RGB frame for each table row."""

from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_policy_rt.errors import DataError
from diffusion_policy_rt.train.data.guard import reading, require
from diffusion_policy_rt.train.data.lerobot_meta import Episode


def read_videos(
    key: str, episodes: Sequence[Episode], times: Iterable[np.ndarray], fps: float
) -> np.ndarray:
    """Decode the frames of every row; each video file is decoded once, from its start.

    Args:
        key: video feature.
        episodes: in the order of the rows.
        times: time of each row of each episode, seconds from the start of that episode.
        fps: rows per second.

    Returns:
        uint8 [N, H, W, 3] RGB.

    Raises:
        DataError: a file that is missing, damaged, or lacks the frame of a row.
    """
    clips = [
        (e.clips[key].path, e.clips[key].start_s + t.astype(np.float64).ravel())
        for e, t in zip(episodes, times, strict=True)
    ]
    out = np.empty((sum(len(t) for _, t in clips), *_frame_size(clips[0][0]), 3), np.uint8)
    at = 0
    for path, group in groupby(clips, lambda clip: clip[0]):
        wanted = np.concatenate([t for _, t in group])
        _decode_into(out[at : at + len(wanted)], path, wanted, 0.5 / fps)
        at += len(wanted)
    return out


def _open(path: Path) -> Any:
    if not path.is_file():
        raise DataError(f'{path}: is missing; copy the data set again')
    return require('av').open(str(path))


def _frame_size(path: Path) -> tuple[int, int]:
    with reading(path, require('av').error.FFmpegError), _open(path) as video:
        return video.streams.video[0].height, video.streams.video[0].width


def _decode_into(out: np.ndarray, path: Path, wanted: np.ndarray, tolerance_s: float) -> None:
    """Write into each row of `out` the frame nearest to its wanted time."""
    order = np.argsort(wanted, kind='stable')
    miss_s = np.full(len(wanted), np.inf)
    with reading(path, require('av').error.FFmpegError), _open(path) as video:
        for frame in video.decode(video=0):
            row = order[_nearest(wanted[order], frame.time)]
            distance = abs(wanted[row] - frame.time)
            if distance < min(miss_s[row], tolerance_s):
                out[row], miss_s[row] = _to_rgb(frame, out.shape[1:], path), distance
    _check_found(path, wanted, miss_s)


def _nearest(ascending: np.ndarray, value: float) -> int:
    right = min(int(np.searchsorted(ascending, value)), len(ascending) - 1)
    left = max(right - 1, 0)
    return left if value - ascending[left] < ascending[right] - value else right


def _to_rgb(frame: Any, shape: tuple[int, ...], path: Path) -> np.ndarray:
    rgb: np.ndarray = frame.to_ndarray(format='rgb24')
    if rgb.shape != shape:
        raise DataError(
            f'{path}: frames are {rgb.shape[1]}x{rgb.shape[0]}, those of the first video '
            f'{shape[1]}x{shape[0]}; all must have one size'
        )
    return rgb


def _check_found(path: Path, wanted: np.ndarray, miss_s: np.ndarray) -> None:
    missing = np.isinf(miss_s)
    if missing.any():
        raise DataError(
            f'{path}: lacks the frames of {missing.sum()} of {len(wanted)} rows, first at '
            f'{wanted[missing].min():.3f} s; the video is cut short: copy the data set again'
        )
