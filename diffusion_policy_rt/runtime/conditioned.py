"""A network in three parts, of which two are kept: exact, because the inputs are the key.

    plan of 2 steps         level 10.0   observed   step   level 0.87   step
    the same observation                            step                step
    another one                          observed   step                step
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

import numpy as np

T = TypeVar('T')
"""What an engine's parts hand to each other: arrays, or tensors where they lie."""

LEVELS = 256
"""Noise levels kept; a schedule has as many as steps."""


class Conditioned(Generic[T]):
    """A raw network F(x, c_noise, cond[, c_stop]); it keeps what does not depend on x.

    The condition holds latents, states and the committed actions; its part is kept until another
    one comes, and a level's part as long as there are not too many.
    """

    def __init__(self, level: Callable[..., T],
                 observed: Callable[[np.ndarray], T],
                 step: Callable[[np.ndarray, T, T], np.ndarray]) -> None:
        """Take the parts: (c_noise[, c_stop]), (cond [C]), (x [H, A] and what these gave)."""
        self._level, self._observed, self._step = level, observed, step
        self._levels: OrderedDict[tuple[float, ...], T] = OrderedDict()
        self._last: tuple[bytes, T] | None = None
        self.keeps = True
        """Whether anything is kept; without it every call computes all three parts."""
        self.hits = self.misses = 0
        """Calls whose condition was the last one, and those with another."""

    def __call__(self, x: np.ndarray, c_noise: float, cond: np.ndarray,
                 *c_stop: float) -> np.ndarray:
        """Run the network: x float32 [H, A], cond float32 [C] to float32 [H, A]."""
        return self._step(x, *self.prepared(c_noise, cond, *c_stop))

    def prepared(self, c_noise: float, cond: np.ndarray, *c_stop: float) -> tuple[T, T]:
        """Return the parts of level and condition."""
        return self._of_level(c_noise, *c_stop), self._of_condition(cond)

    def _of_level(self, *levels: float) -> T:
        made = self._levels.get(levels) if self.keeps else None
        if made is None:
            made = self._levels[levels] = self._level(*levels)
            while len(self._levels) > LEVELS:
                self._levels.popitem(last=False)
        return made

    def _of_condition(self, cond: np.ndarray) -> T:
        key, last = cond.tobytes(), self._last
        if self.keeps and last is not None and last[0] == key:
            self.hits += 1
            return last[1]
        self.misses += 1
        made = self._observed(cond)
        self._last = key, made
        return made
