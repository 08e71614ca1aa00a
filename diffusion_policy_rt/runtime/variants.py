"""Samplers that need no training: other noise levels and steps for a policy that stands."""

from __future__ import annotations

import dataclasses

import numpy as np

from diffusion_policy_rt.errors import SpecError
from diffusion_policy_rt.runtime.schedule import SIGMA_MIN, default_schedules, spaced_levels
from diffusion_policy_rt.spec import PolicySpec, Preconditioning, Schedule

VARIANTS = ('ddim', 'ancestral', 'reduced-noise', 'warm-start')
REDUCED_NOISE = 0.2
"""Factor of the fresh noise of `reduced-noise` (the genetic denoising policy, NeurIPS 2025)."""
REDUCED_START = 6.0
"""First noise level of `reduced-noise`, relative to the deviation of the data.

Tuned in closed loop on Push-T with a policy in mid-training, two steps, 40 episodes each: 1, 2, 6
and 20 scored 0.63, 0.84, 0.89 and 0.87, each +-0.08. It is training step 90 of 100 of the
squared-cosine schedule.
"""
WARM_START = 2.0
"""Level that `warm-start` noises the last chunk to, relative to the deviation of the data.

Chosen with the shipped Push-T policy by dprt eval --seed 200000 --episodes 40 (+-0.02 to 0.045),
level by level beside plain ddim:

    calls, executed    ddim     1      2      4      8
    2, 8               0.864  0.926  0.958  0.893  0.888    score
    1, 8               0.888  0.908  0.875  0.855  0.881
    2, 4               0.938  0.946  0.962  0.963  0.935
    1, 4               0.891  0.926  0.930  0.951  0.871
    2, 8                13.8    8.3    9.1   11.3   13.2    jerk [1000 px / s^3]

On 40 other seeds (210000) the scores of ddim and of level 2 do not differ beyond their intervals;
that the jerk of two calls falls by a third is seen there too (12.6 to 8.5). In one call a
lower level jumps less (`warm.ONE_CALL`).
"""


@dataclasses.dataclass(frozen=True)
class Variant:
    """A sampler in place of the bundle's own schedule."""

    sampler: str
    start: float = 0.0
    """First noise level; 0 takes the bundle's highest, and for `reduced-noise` and `warm-start`
    the tuned one."""
    noise_scale: float | None = None
    """Factor of the fresh noise, for `warm-start` of the last chunk's; None takes the sampler's
    own."""

    def __post_init__(self) -> None:
        if self.sampler not in VARIANTS:
            raise SpecError(f'sampler {self.sampler!r}: use {", ".join(VARIANTS)}')
        if not 0 <= self.start < np.inf:
            raise SpecError(f'sampler {self.sampler}: start {self.start} is no noise level')


def evenly_spaced(precond: Preconditioning, n: int, start: float) -> np.ndarray:
    """Return n falling levels from `start`, evenly spaced in the squared-cosine schedule's time.

    That time is the angle whose tangent is sigma relative to the deviation of the data (Nichol &
    Dhariwal 2021, without their offset); `ddpm` takes the nearest of its own training steps.
    """
    if precond.kind == 'ddpm':
        levels = np.asarray(precond.levels)
        return spaced_levels(levels[:1 + np.abs(np.log(levels / start)).argmin()], n)
    angles = np.arctan(start / precond.sigma_data) * np.arange(n, 0, -1) / n
    return precond.sigma_data * np.tan(angles)


def make_schedule(spec: PolicySpec, variant: Variant, steps: int) -> Schedule:
    """Return the variant's schedule of `steps` network calls; SpecError where there is none.

    `ddim` and `ancestral` take the levels that a bundle of this parametrisation serves;
    `reduced-noise` starts lower and is ancestral with little fresh noise; `warm-start` is `ddim`,
    from noise where there is no last chunk, and else from the last chunk (Duan et al. 2025).
    """
    kind = 'ancestral' if variant.sampler in ('ancestral', 'reduced-noise') else 'ddim'
    if variant.sampler == 'ddim' and variant.noise_scale is not None:
        raise SpecError('the ddim sampler draws no noise that could be scaled')
    try:
        sigmas, warm, scale = _levels(spec, variant, steps)
    except ValueError as error:
        raise SpecError(f'sampler {variant.sampler}: {error}') from error
    chosen = scale if variant.noise_scale is None else variant.noise_scale
    return Schedule(kind, tuple(sigmas), 1.0 if len(warm) else chosen, tuple(warm),
                    chosen if len(warm) else 1.0)


def _levels(spec: PolicySpec, variant: Variant,
            steps: int) -> tuple[np.ndarray, np.ndarray, float]:
    precond = spec.precond
    deviation, highest = precond.sigma_data, max(s.sigmas[0] for s in spec.schedules.values())
    if variant.sampler == 'reduced-noise':
        start = variant.start or REDUCED_START * deviation
        return evenly_spaced(precond, steps, start), np.empty(0), REDUCED_NOISE
    if variant.sampler == 'warm-start':
        warm = _warm(precond, steps, variant.start or WARM_START * deviation)
        return _served(precond, steps, highest), warm, 1.0
    if variant.start:
        return _from(precond, steps, variant.start), np.empty(0), 1.0
    return _served(precond, steps, highest), np.empty(0), 1.0


def _served(precond: Preconditioning, steps: int, highest: float) -> np.ndarray:
    return np.asarray(default_schedules(precond, (steps,), sigma_max=highest)[steps].sigmas)


def _from(precond: Preconditioning, steps: int, start: float) -> np.ndarray:
    if precond.kind == 'ddpm':
        return evenly_spaced(precond, steps, start)
    return _served(precond, steps, start)


def _warm(precond: Preconditioning, steps: int, start: float) -> np.ndarray:
    """Return at most `steps` levels from `start`, however low it is.

    A `ddpm` may have been trained at no more; the levels of others end lower where they must.
    """
    if precond.kind == 'ddpm':
        below = 1 + int(np.abs(np.log(np.asarray(precond.levels) / start)).argmin())
        return evenly_spaced(precond, min(steps, below), start)
    lowest = min(SIGMA_MIN, start / 10)
    return np.asarray(default_schedules(precond, (steps,), lowest, start)[steps].sigmas)


def warmed(spec: PolicySpec, level: float, share: float = 1.0) -> PolicySpec:
    """Return the spec with schedules that go on from the last chunk, at `level` deviations.

    The chunk gets that `share` of the level's noise. A level of 0 leaves all as it is, and
    schedules that draw no noise stay as they are.
    """
    first = level * spec.precond.sigma_data
    return dataclasses.replace(spec, schedules={
        steps: schedule if schedule.kind == 'point' else dataclasses.replace(
            schedule, warm_sigmas=tuple(_warm(spec.precond, steps, first)), warm_noise=share)
        for steps, schedule in spec.schedules.items()}) if level else spec


def with_variant(spec: PolicySpec, variant: Variant, steps: int) -> PolicySpec:
    """Return the spec with its schedule of `steps` calls set to the variant's."""
    made = {**spec.schedules, steps: make_schedule(spec, variant, steps)}
    return dataclasses.replace(spec, schedules=made)
