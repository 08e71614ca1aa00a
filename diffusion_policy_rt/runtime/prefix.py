"""Clean-prefix conditioning: a plan is told the actions that are committed until it takes over.

    observation at `stamp`, planned at `now`, 2 steps later; n_obs 2, prefix 4

    action           0        1        2        3        4       ...
    due         stamp-100   stamp  stamp+100   now
    committed              given    given                            by the chunk in force
    condition              a1 1     a2 1      0 0      0 0           values and masks, 4 of each

The new chunk goes on from what is being executed while it is computed, so chunks meet whatever the
latency (Black et al. 2025, "Training-time action conditioning for efficient real-time chunking",
where the prefix has its own flow time; here it is part of the condition, so that any sampler of
any number of steps serves).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from diffusion_policy_rt.runtime.chunk import Chunk
from diffusion_policy_rt.spec import PolicySpec

Denoise = Callable[[np.ndarray, float, float], np.ndarray]


@dataclass(frozen=True)
class PrefixLayout:
    """Where the committed actions lie: in a chunk, and at the end of a condition."""

    first: int
    """The chunk's action that is due at the observation's instant."""
    most: int
    """Actions that a plan can be told; 0 for policies that were not trained so."""
    action_dim: int

    @classmethod
    def of(cls, spec: PolicySpec) -> PrefixLayout:
        """Return the spec's layout."""
        return cls(spec.n_obs - 1, spec.prefix, len(spec.action))

    @property
    def width(self) -> int:
        """Length of the condition's tail: each action's values, then 1 where it is given."""
        return self.most * (self.action_dim + 1)

    def tail(self, given: np.ndarray) -> np.ndarray:
        """Return the condition's tail, float32 [width], of normalised actions [d, A]."""
        values = np.zeros((self.most, self.action_dim + 1), np.float32)
        values[:len(given)] = np.concatenate([given, np.ones((len(given), 1))], axis=1)
        return values.ravel()

    def hold(self, denoise: Denoise, given: np.ndarray) -> Denoise:
        """Return `denoise` with the committed actions [d, A] in place of their estimates."""
        def held(x: np.ndarray, sigma: float, stop: float) -> np.ndarray:
            estimate = np.array(denoise(x, sigma, stop))
            estimate[self.first:self.first + len(given)] = given
            return estimate

        return held if len(given) else denoise


NO_PREFIX = PrefixLayout(0, 0, 0)
"""For policies that are told no committed actions."""


def committed(spec: PolicySpec, chunk: Chunk | None, stamp_ns: int, now_ns: int) -> np.ndarray:
    """Return the actions [d, A] in units that `chunk` has due from `stamp_ns` until now.

    What is due now is not among them: the new plan gives it. d is at most the spec's prefix, and
    ends where the chunk has no action left.
    """
    none = np.empty((0, len(spec.action)))
    if chunk is None or not spec.prefix:
        return none
    index = chunk.index(stamp_ns)
    if index < 0:
        return none
    late = steps_late(stamp_ns, now_ns, spec.step_ns)
    return chunk.actions[index:index + min(late, spec.prefix)]


def steps_late(stamp_ns: int, now_ns: int, step_ns: int) -> int:
    """Return how many of the chunk's steps lie between an observation and now, rounded."""
    return max(0, (2 * (now_ns - stamp_ns) + step_ns) // (2 * step_ns))
