"""Warm start across plans: whether the next plan goes on from the last chunk or from noise alone.

Two dangers come with it.

Stalling: a plan from a chunk that stands still tends to stand still. Where the targets of
`PATIENCE_NS` lie within `REACH` of each other, the next plan starts from noise.

Lag: of data of deviation s, a plan from the last chunk at level w keeps s^2 / (s^2 + w^2) of how
far that is from where the data are now (the posterior mean of a Gaussian). A level of s leaves
half of an abrupt change after one plan and a hundredth after seven, one of 2 s a fifth and a
hundredth after three.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

from diffusion_policy_rt.runtime.chunk import Chunk

ONE_CALL, DISTILLED = 0.85, 8.0
"""The levels for plans of one network call [deviations of the data]: of a plain policy, and of one
distilled for consistency.

Chosen with the policies of Push-T on up to 200 seeds from 200000 (docs/results/caching.md): at
lower ones fewer episodes succeed; at higher ones the plain policy's first actions jump further
from what the last chunk had due then.
"""
WARM_NOISE = 0.7
"""Share of the level's noise that the last chunk gets.

With less noise than it was trained on a network strays less (the genetic denoising policy, NeurIPS
2025, scales what is added between steps so). Chosen on the same seeds: with all of it plans jump
as far as from noise, with half of it fewer episodes succeed.
"""
PATIENCE_NS = 1_000_000_000
"""How long targets may stand before a plan starts from noise [ns]."""
REACH = 0.02
"""Largest difference of targets that stand, in normalised actions."""


class WarmStart:
    """Watches the targets that plans go on from; used by the planning thread."""

    def __init__(self, scale: Sequence[float]) -> None:
        """Take what one of a normalised action is, [A] in units."""
        self._scale = np.asarray(scale)
        self._targets: deque[tuple[int, np.ndarray]] = deque()
        """When a plan began [ns], and the target then; the newest of `PATIENCE_NS`, and one."""
        self.plans = self.restarts = 0
        """Plans that went on from a chunk, and those that did not because it stood."""

    def clear(self) -> None:
        """Forget the targets; counts stand."""
        self._targets.clear()

    def of(self, last: Chunk | None, now_ns: int) -> Chunk | None:
        """Return the chunk to start from at `now_ns`; None for noise alone."""
        if last is None or not len(last.rest(now_ns)):
            self.clear()
            return None
        self._targets.append((now_ns, last.rest(now_ns)[0] / self._scale))
        if self._stands(now_ns):
            self.restarts += 1
            self.clear()
            return None
        self.plans += 1
        return last

    def _stands(self, now_ns: int) -> bool:
        targets = self._targets
        while len(targets) > 1 and abs(now_ns - targets[1][0]) >= PATIENCE_NS:
            targets.popleft()
        return abs(now_ns - targets[0][0]) >= PATIENCE_NS and bool(
            np.ptp([target for _, target in targets], axis=0).max() <= REACH)
