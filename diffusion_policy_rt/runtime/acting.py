"""What a tick publishes, and what keeps the robot where it is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from diffusion_policy_rt.runtime.chunk import Chunk
from diffusion_policy_rt.runtime.observation import State
from diffusion_policy_rt.runtime.trace import Rung
from diffusion_policy_rt.spec import PolicySpec


@dataclass(frozen=True)
class Action:
    """What a tick publishes."""

    rung: Rung
    actions: np.ndarray
    """float64 [K, A] in units: the action due now, then the rest of the chunk; K = 0 for STOP. Not
    to be written to."""
    chunk: Chunk | None = None
    """The chunk that was in force, whether or not it is what is published."""

    @classmethod
    def stop(cls, spec: PolicySpec) -> Action:
        """Return nothing to publish."""
        return cls(Rung.STOP, np.empty((0, len(spec.action))))


class Places:
    """Finds the actions in a measured state, by their names."""

    def __init__(self, spec: PolicySpec) -> None:
        states, names = spec.state.names, spec.action.names
        self._absent = np.array([name not in states for name in names])
        self._some_absent = bool(self._absent.any())
        self._columns = np.array([states.index(name) if name in states else 0 for name in names])

    def of(self, state: State | None) -> np.ndarray:
        """Return a measured state by action name, [A]; NaN where there is none."""
        if state is None:
            return np.full(len(self._absent), np.nan)
        values = state.values[self._columns]
        return np.where(self._absent, np.nan, values) if self._some_absent else values


def resting(values: np.ndarray, chunk: Chunk | None, now_ns: int | None) -> np.ndarray:
    """Return the actions [A] to hold at: `values` [A], and what is due where these are NaN.

    Without `now_ns` the chunk's last action stands.
    """
    if chunk is None:
        return values
    last = len(chunk.actions) - 1
    due = last if now_ns is None else min(max(0, chunk.index(now_ns)), last)
    return np.where(np.isfinite(values), values, chunk.actions[due])


def braking(sent: np.ndarray | None, reach: np.ndarray) -> np.ndarray | None:
    """Return the velocity [A] on the way from the last one to zero; None when it is reached.

    Each tick may change it by `reach` [A]. Where nothing was sent yet zero is sent once.
    """
    if sent is None:
        return np.zeros(len(reach))
    return np.clip(0.0, sent - reach, sent + reach) if sent.any() else None
