"""Decodes the video files of a LeRobot data set: one RGB frame for each table row."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_policy_rt.errors import DataError
from diffusion_policy_rt.train.data.frames import Frames
from diffusion_policy_rt.train.data.guard import reading, require
from diffusion_policy_rt.train.data.lerobot_meta import Episode

SEEK_S = 2.0
"""Wanted frames further apart are sought from a key frame on; between others all are decoded."""


class VideoFrames(Frames):
    """The frames of every row of a video feature."""

    def __init__(self, key: str, episodes: Sequence[Episode], times: Iterable[np.ndarray],
                 fps: float) -> None:
        """Take the video feature, the episodes in the order of rows, and the rows per second.

        `times` are those of each episode's rows, from its start [s]. DataError where a file is
        missing, or the first one damaged.
        """
        clips = [e.clips[key] for e in episodes]
        starts = [clip.start_s + t.astype(np.float64).ravel()
                  for clip, t in zip(clips, times, strict=True)]
        self._times = np.concatenate(starts)
        self._paths = list(dict.fromkeys(clip.path for clip in clips))
        number = {path: at for at, path in enumerate(self._paths)}
        self._files = np.repeat([number[c.path] for c in clips], [len(t) for t in starts])
        for path in self._paths:
            _check_there(path)
        self._tolerance_s = 0.5 / fps
        super().__init__(len(self._times), *_frame_size(self._paths[0]))

    def each(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the frames of these rows: decoded one after the other, or sought where far."""
        files, times = self._files[rows], self._times[rows]
        gaps = (np.diff(files) != 0) | (np.diff(times) < 0) | (np.diff(times) > SEEK_S)
        for run in np.split(np.arange(len(rows)), np.flatnonzero(gaps) + 1):
            if len(run):
                yield from self._run(self._paths[files[run[0]]], times[run])

    def _run(self, path: Path, wanted: np.ndarray) -> Iterator[np.ndarray]:
        with reading(path, require('av').error.FFmpegError), _open(path) as video:
            stream = video.streams.video[0]
            before_s = wanted[0] - 4 * self._tolerance_s
            if before_s > SEEK_S:
                video.seek(int(before_s / stream.time_base), stream=stream)
            for frame in self._nearest(path, video.decode(stream), wanted):
                yield _to_rgb(frame, self.shape[1:], path)

    def _nearest(self, path: Path, frames: Iterator[Any], wanted: np.ndarray) -> Iterator[Any]:
        before, frame = None, next(frames, None)
        for time_s in wanted:
            while frame is not None and frame.time < time_s:
                before, frame = frame, next(frames, None)
            best = min((f for f in (before, frame) if f is not None),
                       key=lambda f: abs(f.time - time_s), default=None)
            if best is None or abs(best.time - time_s) >= self._tolerance_s:
                raise DataError(f'{path}: lacks the frame of the row at {time_s:.3f} s; the video '
                                'is cut short: copy the data set again')
            yield best


def _check_there(path: Path) -> None:
    if not path.is_file():
        raise DataError(f'{path}: is missing; copy the data set again')


def _open(path: Path) -> Any:
    _check_there(path)
    return require('av').open(str(path))


def _frame_size(path: Path) -> tuple[int, int]:
    with reading(path, require('av').error.FFmpegError), _open(path) as video:
        return video.streams.video[0].height, video.streams.video[0].width


def _to_rgb(frame: Any, shape: tuple[int, ...], path: Path) -> np.ndarray:
    rgb: np.ndarray = frame.to_ndarray(format='rgb24')
    if rgb.shape != shape:
        raise DataError(
            f'{path}: frames are {rgb.shape[1]}x{rgb.shape[0]}, those of the first video '
            f'{shape[1]}x{shape[0]}; all must have one size'
        )
    return rgb
