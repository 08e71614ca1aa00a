"""The order in which a run sees its rows: a function of the seed and the step alone.

So it does not depend on how often the run was killed, nor on how many processes share it. Each
epoch leaves out less than a batch, another part each time.
"""

from __future__ import annotations

import functools

import numpy as np


class Order:
    """All rows of an epoch in a new random order."""

    def __init__(self, rows: np.ndarray, batch_size: int, seed: int) -> None:
        self.rows, self.batch_size, self.seed = rows, batch_size, seed
        self.per_epoch = max(1, len(rows) // batch_size)
        self._epoch = functools.lru_cache(1)(self._shuffled)

    def _shuffled(self, epoch: int) -> np.ndarray:
        return np.random.default_rng((self.seed, epoch)).permutation(self.rows)

    def batch(self, step: int) -> np.ndarray:
        """Return the rows of the batch of this step, int64 [B]."""
        epoch, at = divmod(step, self.per_epoch)
        return self._epoch(epoch)[at * self.batch_size:(at + 1) * self.batch_size]


class PooledOrder(Order):
    """An order in which what is needed at a time lies together, to be read in a stream.

    The episodes of an epoch, in random order, are one row after the other dealt to as many lanes
    as a batch has places: lane i gets the i-th of equal parts. A pool is `span` batches: that many
    rows of each lane, each lane's in random order, one from each lane to a batch. A process takes
    whole lanes, so that it reads its part of the episodes and no more.
    """

    def __init__(self, rows: np.ndarray, batch_size: int, seed: int, episode_ends: np.ndarray,
                 span: int) -> None:
        """`rows` ascend, those of an episode one after the other; `span` is in batches."""
        super().__init__(rows, batch_size, seed)
        self.span = span
        episode = np.searchsorted(episode_ends, rows, 'right')
        self._episodes = np.split(rows, np.flatnonzero(np.diff(episode)) + 1)
        self._pool = functools.lru_cache(2)(self._drawn)

    def _shuffled(self, epoch: int) -> np.ndarray:
        """Return each lane's rows, int64 [B, batches of the epoch]."""
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self._episodes))
        rows = np.concatenate([self._episodes[number] for number in order])
        lanes = min(self.batch_size, len(rows))
        return rows[:lanes * self.per_epoch].reshape(lanes, self.per_epoch)

    def _drawn(self, epoch: int, number: int) -> np.ndarray:
        rng = np.random.default_rng((self.seed, epoch, number))
        first = number * self.span
        return rng.permuted(self._epoch(epoch)[:, first:first + self.span], axis=1)

    def batch(self, step: int) -> np.ndarray:
        """Return the rows of the batch of this step, int64 [B]; place i is lane i's."""
        return self.ahead(step)[:, 0]

    def ahead(self, step: int) -> np.ndarray:
        """Return what is left of the pool of this step, int64 [B, batches]."""
        epoch, at = divmod(step, self.per_epoch)
        number, within = divmod(at, self.span)
        return self._pool(epoch, number)[:, within:]
