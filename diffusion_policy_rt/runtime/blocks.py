"""Block caching between denoising steps: some residual branches keep what they gave before.

    call      0      1      2      3          a plan of 4 calls, a network of 3 branches
    fresh    111    010    110    001         1: computed; 0: the branch's last output stands

Approximate, so it is off unless asked for. Which branches are computed when is data of the
bundle, found by `train.blocks`; the method is BAC (Ji et al. 2025, block-wise adaptive caching).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffusion_policy_rt.errors import SpecError
from diffusion_policy_rt.runtime.conditioned import Conditioned
from diffusion_policy_rt.runtime.precond import denoise
from diffusion_policy_rt.spec import Preconditioning, Schedule

Masked = Callable[[str, np.ndarray, Any, Any, list[Any]], tuple[np.ndarray, list[Any]]]
"""(fresh, x [H, A], level, observed, kept branches) -> (output [H, A], computed branches)."""


@dataclass(frozen=True)
class BlockSchedule:
    """Which branches each network call of a plan computes."""

    sigmas: tuple[float, ...]
    """The levels of the schedule that it was found for."""
    fresh: tuple[str, ...]
    """Per call a string of 1 and 0, one for each branch; the first has ones only."""

    def __post_init__(self) -> None:
        first = self.fresh[0] if self.fresh else ''
        if (len(self.fresh) != len(self.sigmas) or not first or set(first) != {'1'}
                or any(len(call) != len(first) or set(call) - {'0', '1'} for call in self.fresh)):
            raise SpecError('a schedule of blocks needs a string of 1 and 0 for each call, as '
                            'many as there are branches, and all of them 1 in the first; make '
                            'it by dprt cache')

    @classmethod
    def from_json(cls, data: Any) -> BlockSchedule:
        """Read what `to_json` gave; SpecError where it is something else."""
        try:
            return cls(tuple(map(float, data['sigmas'])), tuple(map(str, data['fresh'])))
        except (TypeError, KeyError, ValueError) as error:
            raise SpecError(f'a schedule of blocks is damaged: {error}') from error

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {'sigmas': list(self.sigmas), 'fresh': list(self.fresh)}

    @property
    def saving(self) -> float:
        """Branches of all calls by those that are computed."""
        return len(self.fresh) * len(self.fresh[0]) / sum(call.count('1') for call in self.fresh)


def read_schedules(blocks: Mapping[str, Any]) -> dict[tuple[float, ...], BlockSchedule]:
    """Return the schedules in a bundle's manifest, by their levels."""
    made = [BlockSchedule.from_json(entry) for entry in blocks.values()]
    return {schedule.sigmas: schedule for schedule in made}


class Blockwise:
    """The Denoiser of one plan: its calls come in the order of the schedule."""

    def __init__(self, precond: Preconditioning, schedule: BlockSchedule,
                 conditioned: Conditioned[Any], masked: Masked, counts: Counter[str]) -> None:
        self._precond, self._calls = precond, iter(schedule.fresh)
        self._conditioned, self._masked, self._counts = conditioned, masked, counts
        self._kept: list[Any] = [None] * len(schedule.fresh[0])

    def denoise(self, x: np.ndarray, sigma: float, cond: np.ndarray,
                stop: float = 0.0) -> np.ndarray:
        """Estimate the clean chunk, float64 [H, A]; the plan's next call."""
        return denoise(self._network, self._precond, x, sigma, cond, stop)

    def _network(self, x: np.ndarray, c_noise: float, cond: np.ndarray,
                 *c_stop: float) -> np.ndarray:
        fresh = next(self._calls)
        level, observed = self._conditioned.prepared(c_noise, cond, *c_stop)
        kept = [made for made, bit in zip(self._kept, fresh) if bit == '0']
        output, computed = self._masked(fresh, x, level, observed, kept)
        for place, made in zip([i for i, bit in enumerate(fresh) if bit == '1'], computed):
            self._kept[place] = made
        self._counts.update(computed=fresh.count('1'), kept=fresh.count('0'))
        return output


def blockwise(schedules: Mapping[tuple[float, ...], BlockSchedule], schedule: Schedule,
              precond: Preconditioning, conditioned: Conditioned[Any] | None, masked: Masked,
              counts: Counter[str]) -> Blockwise | None:
    """Return a plan's denoiser; None where no schedule of blocks is of these levels.

    A plan that goes on from the last chunk visits other levels.
    """
    found: BlockSchedule | None = schedules.get(schedule.sigmas)
    if found is None or conditioned is None or schedule.warm_sigmas:
        return None
    return Blockwise(precond, found, conditioned, masked, counts)


def names(fresh: str) -> tuple[Sequence[str], Sequence[str]]:
    """Return the names of a masked graph's kept inputs and of its computed outputs."""
    return ([f'kept_{i}' for i, bit in enumerate(fresh) if bit == '0'],
            [f'made_{i}' for i, bit in enumerate(fresh) if bit == '1'])
