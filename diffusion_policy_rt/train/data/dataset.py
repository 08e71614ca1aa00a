"""A demonstration data set: streams of equal length, cut into episodes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from diffusion_policy_rt.errors import DataError
from diffusion_policy_rt.train.data.frames import Blank, First, Frames, Joined

Stream = np.ndarray | Frames


@dataclass(frozen=True)
class Dataset:
    """Streams that share N rows, one row per control step.

    Attributes:
        streams: stream name -> [N, ...]; an image stream is uint8 [N, H, W, 3] RGB, as `Frames`
            that are decoded when they are asked for; every other stream is an array float32
            [N, D] (or [N, ...]) in the units of the source.
        episode_ends: int64 [E], exclusive end row of each episode; the last is N.
        rate_hz: rows per second where the source says, else None.
        source: format and path, for messages.
        stream_keys: stream name -> key that it has in the source.

    Raises:
        DataError: no rows, unequal lengths, episode ends that do not cut the N rows, or a
            float that is not finite.
    """

    streams: Mapping[str, Any]
    episode_ends: np.ndarray
    rate_hz: float | None
    source: str
    stream_keys: Mapping[str, str]

    def __post_init__(self) -> None:
        if not self.streams:
            raise DataError(f'{self.source}: no stream was asked for; name at least one')
        self._check_ends()
        for name, rows in self.streams.items():
            self._check_length(name, rows)
            self._check_finite(name, rows)

    @property
    def title(self) -> str:
        """The last part of each source's path."""
        return ' + '.join(part.rsplit('/', 1)[-1] for part in self.source.split(' + '))

    def episodes(self) -> Iterator[slice]:
        """Yield the rows of each episode, in order."""
        starts = np.concatenate(([0], self.episode_ends[:-1]))
        for start, end in zip(starts, self.episode_ends, strict=True):
            yield slice(int(start), int(end))

    def first(self, n_episodes: int) -> 'Dataset':
        """Return the first `n_episodes` episodes; nothing is copied.

        Raises:
            DataError: `n_episodes` is not within 1..E.
        """
        if not 1 <= n_episodes <= len(self.episode_ends):
            raise DataError(
                f'{self.source}: asked for the first {n_episodes} episodes, but it has '
                f'{len(self.episode_ends)}; ask for 1 to {len(self.episode_ends)}'
            )
        ends = self.episode_ends[:n_episodes]
        streams = {name: First(rows, int(ends[-1])) if isinstance(rows, Frames)
                   else rows[: ends[-1]] for name, rows in self.streams.items()}
        return replace(self, streams=streams, episode_ends=ends)

    def _check_ends(self) -> None:
        ends = self.episode_ends
        if ends.ndim != 1 or ends.dtype != np.int64 or not len(ends):
            raise DataError(
                f'{self.source}: episode ends are {ends.dtype} {list(ends.shape)}; '
                'they must be int64 [E] with at least one episode'
            )
        lengths = np.diff(ends, prepend=0)
        if lengths.min() < 1:
            bad = int(np.argmax(lengths < 1))
            raise DataError(
                f'{self.source}: episode {bad} ends at row {ends[bad]} and so has no rows; '
                'episode ends must start above 0 and increase'
            )

    def _check_length(self, name: str, rows: Stream) -> None:
        if len(rows) != self.episode_ends[-1]:
            raise DataError(
                f"{self.source}: stream '{name}' has {len(rows)} rows, but the last episode "
                f'ends at row {self.episode_ends[-1]}; write the data set again'
            )

    def _check_finite(self, name: str, rows: Stream) -> None:
        if isinstance(rows, Frames) or rows.dtype == np.uint8:
            return
        finite = np.isfinite(rows.reshape(len(rows), -1)).all(axis=1)
        if not finite.all():
            raise DataError(
                f"{self.source}: stream '{name}' holds NaN or infinity, first in row "
                f'{int(np.argmin(finite))}; repair or drop that episode'
            )


def join(sets: Sequence[Dataset]) -> Dataset:
    """Return the episodes of all sets, in order; DataError where their streams' shapes differ.

    A stream that a set lacks is zero there.
    """
    first = sets[0]
    if len(sets) == 1:
        return first
    names = dict.fromkeys(name for one in sets for name in one.streams)
    streams = {name: _joined(name, sets) for name in names}
    before = np.cumsum([0, *(s.episode_ends[-1] for s in sets[:-1])])
    ends = np.concatenate([s.episode_ends + rows for s, rows in zip(sets, before)])
    return replace(first, streams=streams, episode_ends=ends.astype(np.int64),
                   source=' + '.join(s.source for s in sets))


def _joined(name: str, sets: Sequence[Dataset]) -> Stream:
    pattern = next(one for one in sets if name in one.streams)
    like = pattern.streams[name]
    for other in sets:
        shape = other.streams[name].shape[1:] if name in other.streams else like.shape[1:]
        if shape != like.shape[1:]:
            raise DataError(f"stream '{name}' has rows {list(like.shape[1:])} in "
                            f'{pattern.source} and {list(shape)} in {other.source}; they must be '
                            'equal')
    if isinstance(like, Frames):
        return Joined([one.streams[name] if name in one.streams
                       else Blank(int(one.episode_ends[-1]), *like.shape[1:3]) for one in sets])
    return np.concatenate([
        one.streams[name] if name in one.streams
        else np.zeros((one.episode_ends[-1], *like.shape[1:]), like.dtype) for one in sets])
