"""Where objectives get their images: all held on the device, or a pool at a time from their files.

Memory of pools: each process holds the present pool of its lanes and reads the next meanwhile, by
itself; none waits for another, or reads what another trains on but for what a window looks back.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from diffusion_policy_rt.errors import DataError
from diffusion_policy_rt.train.data.frames import Frames
from diffusion_policy_rt.train.distributed import World
from diffusion_policy_rt.train.order import PooledOrder


class Images(Protocol):
    """The images of all cameras."""

    def take(self, camera: str, rows: np.ndarray) -> Tensor:
        """Return a camera's images of these rows, uint8 [..., H, W, 3] on the training device."""


class Whole:
    """All images, on the device."""

    def __init__(self, images: Mapping[str, Frames | np.ndarray], device: torch.device) -> None:
        self._held = {name: torch.from_numpy(frames[:]).to(device)
                      for name, frames in images.items()}

    def take(self, camera: str, rows: np.ndarray) -> Tensor:
        """Return a camera's images of these rows."""
        held = self._held[camera]
        return held[torch.from_numpy(rows).to(held.device)]


@dataclass
class Pool:
    """Images of some rows, which ascend."""

    rows: np.ndarray
    images: Mapping[str, np.ndarray]


class Feed:
    """The images of one pool of batches after the other; a context manager, which ends reading.

    Attributes:
        waited_s: time that training waited for images [s].
        read_s: time spent reading them, in the thread that does.
        read: how many were read.
    """

    def __init__(self, images: Mapping[str, Frames], observed: np.ndarray, order: PooledOrder,
                 total: int, world: World) -> None:
        """Feed `total` steps; `observed` [W, n] are the images that a row's window looks at."""
        self._images, self._observed, self.order = images, observed, order
        self._total, self._world = total, world
        self._pool: Pool | None = None
        self._next: tuple[int, Future[Pool]] | None = None
        """The step that the pool after this begins with, and that pool when it is read."""
        self._steps = range(0)
        self._reader = ThreadPoolExecutor(1)
        self._ended = False
        self._began = time.monotonic()
        self.waited_s, self.read_s, self.read = 0.0, 0.0, 0

    def advance(self, step: int) -> None:
        """Hold what the batch of this step needs, and begin to read the pool after it."""
        if step in self._steps:
            return
        began = time.monotonic()
        if self._next is None or self._next[0] != step:
            self._next = step, self._begin(step)
        self._pool = None  # or three were held
        self._pool = self._next[1].result()
        self._steps = range(step, step + self.order.ahead(step).shape[1])
        after = self._steps.stop
        self._next = (after, self._begin(after)) if after < self._total else None
        self.waited_s += time.monotonic() - began

    def _begin(self, step: int) -> Future[Pool]:
        mine = self.order.ahead(step)[self._world.rank::self._world.size]
        return self._reader.submit(self._read, np.unique(self._observed[mine]))

    def _read(self, rows: np.ndarray) -> Pool:
        began = time.monotonic()
        images = {name: np.empty((len(rows), *frames.shape[1:]), np.uint8)
                  for name, frames in self._images.items()}
        for name, frames in self._images.items():
            for image, held in zip(frames.each(rows), images[name], strict=True):
                held[:] = image
                self.read += 1
                if self._ended:
                    break
        self.read_s += time.monotonic() - began
        return Pool(rows, images)

    def take(self, camera: str, rows: np.ndarray) -> Tensor:
        """Return a camera's images of these rows; those that no pool has are read at once."""
        pool, device = self._pool, self._world.device
        if pool is not None and len(pool.rows):
            at = np.searchsorted(pool.rows, rows).clip(max=len(pool.rows) - 1)
            if np.array_equal(pool.rows[at], rows):
                return torch.from_numpy(pool.images[camera][at]).to(device)
        return torch.from_numpy(self._images[camera][rows]).to(device)

    @property
    def held_bytes(self) -> int:
        """Bytes of the images that are held now, those of the pool that is being read as well."""
        ready = [self._pool] if self._pool is not None else []
        ready += [self._next[1].result()] if self._next is not None else []
        return sum(images.nbytes for pool in ready for images in pool.images.values())

    def told(self) -> dict[str, float]:
        """Return how many images were read, how many a second, and the share of time waited."""
        return {'read': self.read, 'read_per_s': self.read / max(self.read_s, 1e-9),
                'waited': self.waited_s / max(time.monotonic() - self._began, 1e-9)}

    def __enter__(self) -> Feed:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        self._reader.shutdown(cancel_futures=True)


def span_of(most: float, images: Mapping[str, Frames], batch_size: int, back: int) -> int:
    """Return how many batches a pool may have, for at most so many bytes over all processes.

    The present pool and the next are held, of each lane's part `back` images before its first row
    as well. DataError where not even one batch fits.
    """
    row = batch_size * sum(int(np.prod(frames.shape[1:])) for frames in images.values())
    span = int(most // (2 * row)) - back
    if span < 1:
        raise DataError(f'--stream: {most / 1e9:.3g} GB hold no batch of {batch_size} twice; give '
                        f'at least {2 * row * (1 + back) / 1e9:.3g}')
    return span
