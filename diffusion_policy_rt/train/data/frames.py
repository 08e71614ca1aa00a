"""Image streams that are decoded when they are asked for, so that none need fit into memory."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from diffusion_policy_rt.runtime.frame import fit
from diffusion_policy_rt.spec import CameraSpec


class Frames(ABC):
    """An image stream, uint8 [N, H, W, 3] RGB. Indexed or converted, it is read into an array."""

    dtype = np.dtype(np.uint8)

    def __init__(self, count: int, height: int, width: int) -> None:
        self.shape = (count, height, width, 3)

    @abstractmethod
    def each(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the image of each of these rows, int64 [n], which ascend; DataError if damaged."""

    def blocks(self, rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
        """Yield the images of these rows, which ascend, up to `size` at a time."""
        images = self.each(rows)
        while block := list(itertools.islice(images, size)):
            yield np.stack(block)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        """Read rows of any order, [n] or [n, m], as uint8 [n, (m,) H, W, 3]."""
        index = np.arange(len(self))[rows]
        wanted, back = np.unique(index, return_inverse=True)
        out = np.empty((len(wanted), *self.shape[1:]), np.uint8)
        for image, held in zip(self.each(wanted), out, strict=True):
            held[:] = image
        return out if np.array_equal(index, wanted) else out[back.reshape(index.shape)]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:] if dtype is None else self[:].astype(dtype)


class Held(Frames):
    """Images that are in memory."""

    def __init__(self, images: np.ndarray) -> None:
        super().__init__(*images.shape[:3])
        self._images = images

    def each(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the images of these rows."""
        yield from (self._images[row] for row in rows)

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        return self._images[rows]


class First(Frames):
    """The first `count` images of a stream."""

    def __init__(self, frames: Frames, count: int) -> None:
        super().__init__(count, *frames.shape[1:3])
        self._frames = frames

    def each(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the images of these rows."""
        return self._frames.each(rows)


class Joined(Frames):
    """Streams of equal image size, one after the other."""

    def __init__(self, parts: Sequence[Frames]) -> None:
        super().__init__(sum(map(len, parts)), *parts[0].shape[1:3])
        self._parts = parts

    def each(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the images of these rows."""
        start = 0
        for part in self._parts:
            within = rows[(rows >= start) & (rows < start + len(part))] - start
            if len(within):
                yield from part.each(within)
            start += len(part)


class Blank(Frames):
    """Black images, where a data set lacks a camera."""

    def each(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """Yield as many."""
        yield from (np.zeros(self.shape[1:], np.uint8) for _ in rows)


class Fitted(Frames):
    """A stream's images, brought to a camera's canvas."""

    def __init__(self, frames: Frames, camera: CameraSpec) -> None:
        super().__init__(len(frames), camera.height, camera.width)
        self._frames, self._camera = frames, camera

    def each(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the images of these rows."""
        return (fit(image, self._camera) for image in self._frames.each(rows))


def fitted(images: Frames | np.ndarray, camera: CameraSpec) -> Frames:
    """Return images [N, H, W, 3] brought to a camera's canvas [N, height, width, 3]."""
    frames = images if isinstance(images, Frames) else Held(images)
    if frames.shape[1:3] == (camera.height, camera.width):
        return frames
    return Fitted(frames, camera)
