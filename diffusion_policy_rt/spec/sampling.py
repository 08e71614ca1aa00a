"""What a sampler is told: how outputs become estimates, and the noise levels it visits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from diffusion_policy_rt.errors import SpecError
from diffusion_policy_rt.spec.parse import as_tuple

SAMPLERS = ('ddim', 'ddim_unclipped', 'ancestral', 'renoise', 'point')


def _falling(levels: Sequence[float]) -> bool:
    return all(math.inf > a > b for a, b in zip(levels, (*levels[1:], 0.0)))


@dataclass(frozen=True)
class Preconditioning:
    """How the raw network output becomes a denoised estimate (`runtime/precond.py`)."""

    kind: str
    """`edm` (Karras et al. 2022, table 1), `ddpm` (epsilon prediction, Ho et al. 2020) or `flow`
    (rectified flow, Liu et al. 2022)."""
    sigma_data: float
    """Standard deviation of the normalised actions; 1 for `ddpm`."""
    levels: tuple[float, ...] = ()
    """`ddpm`: the noise level sigma of each training step, rising."""
    stop_time: bool = False
    """Whether the network is also told the level that the step goes to (Kim et al. 2024)."""
    predicts: str = 'noise'
    """`ddpm`: what the network's output is, `noise` or the clean `sample`."""

    def __post_init__(self) -> None:
        object.__setattr__(self, 'levels', as_tuple(self.levels, float))
        if self.kind not in ('edm', 'ddpm', 'flow'):
            raise SpecError(f'preconditioning {self.kind!r}: use edm, ddpm or flow')
        if self.predicts not in ('noise', 'sample') or (
                self.predicts == 'sample' and self.kind != 'ddpm'):
            raise SpecError(f'preconditioning {self.kind}: predicts {self.predicts!r}; use noise, '
                            'or sample with ddpm')
        rising = all(a < b for a, b in zip((0.0, *self.levels), self.levels))
        if self.kind == 'ddpm' and not (
                rising and len(self.levels) > 1 and self.levels[-1] < math.inf):
            raise SpecError('preconditioning ddpm: levels must be a rising list of finite noise '
                            'levels above zero')
        if not 0 < self.sigma_data < math.inf:
            raise SpecError('preconditioning: sigma_data must be above zero and finite')


@dataclass(frozen=True)
class Schedule:
    """The noise levels that one sampling run visits; it ends at zero, which is not listed."""

    kind: str
    """`ddim` (deterministic, Song et al. 2021), `ddim_unclipped` (its noise estimate is that of
    before the clip, as diffusers has it), `ancestral` (Ho et al. 2020), `renoise` (fresh
    noise on the estimate, Song et al. 2023, alg. 1) or `point` (`ddim` from zeros, not noise)."""
    sigmas: tuple[float, ...]
    """Falling noise levels, one network call each."""
    noise_scale: float = 1.0
    """`ancestral`, `renoise`: factor of the fresh noise, 0..1; 1 is as published."""
    warm_sigmas: tuple[float, ...] = ()
    """Levels visited instead, no more of them, where the last chunk is known: it is noised to the
    first of them (warm start). Empty: the last chunk is not looked at."""
    warm_noise: float = 1.0
    """Share of that level's noise that the last chunk gets, 0..1; 1 is as published."""

    def __post_init__(self) -> None:
        for name in ('sigmas', 'warm_sigmas'):
            object.__setattr__(self, name, as_tuple(getattr(self, name), float))
        if self.kind not in SAMPLERS:
            raise SpecError(f'schedule kind {self.kind!r}: use one of {", ".join(SAMPLERS)}')
        if not self.sigmas or not all(map(_falling, (self.sigmas, self.warm_sigmas))):
            raise SpecError('schedule: sigmas must be positive, finite and falling')
        if len(self.warm_sigmas) > len(self.sigmas):
            raise SpecError(f'schedule: a warm start takes {len(self.warm_sigmas)} calls, more '
                            f'than the {len(self.sigmas)} from noise')
        for name in ('noise_scale', 'warm_noise'):
            if not 0 <= getattr(self, name) <= 1:
                raise SpecError(f'schedule: {name} {getattr(self, name)} must lie in 0..1')
