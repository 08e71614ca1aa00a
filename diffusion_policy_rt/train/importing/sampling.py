"""The noise schedules of diffusers, by the names that configurations give them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from diffusion_policy_rt.errors import BundleError
from diffusion_policy_rt.runtime.schedule import squared_cosine_betas
from diffusion_policy_rt.spec import Preconditioning, Schedule
from diffusion_policy_rt.train.importing.source import Sampling


MOST = 100_000
"""Training steps of no policy are more."""


def noise_levels(schedule: str, count: int, beta_start: float, beta_end: float,
                 where: str) -> tuple[float, ...]:
    """Return sigma of each training step, rising.

    Betas and their product are float32, as diffusers has them: the last levels are so sensitive
    that another rounding gives other chunks.
    """
    if not isinstance(count, int) or not 0 < count <= MOST:
        raise BundleError(f'{where}: num_train_timesteps must be a whole number from 1 to {MOST}, '
                          f'found {count!r}; copy the checkpoint again')
    if schedule == 'squaredcos_cap_v2':
        betas = torch.tensor(squared_cosine_betas(count), dtype=torch.float32)
    elif schedule == 'linear':
        betas = torch.linspace(beta_start, beta_end, count, dtype=torch.float32)
    elif schedule == 'scaled_linear':
        betas = torch.linspace(beta_start**0.5, beta_end**0.5, count, dtype=torch.float32)**2
    else:
        raise BundleError(f'{where}: beta_schedule {schedule!r} is not supported; supported: '
                          'squaredcos_cap_v2, linear, scaled_linear')
    kept = torch.cumprod(1 - betas, 0).double().numpy()
    return tuple(np.sqrt((1 - kept) / kept))


def precond(sampling: Sampling) -> Preconditioning:
    """Return the parametrisation of the source's network."""
    return Preconditioning('ddpm', 1.0, sampling.levels, predicts=sampling.predicts)


def schedules(sampling: Sampling, also: Iterable[int], where: str) -> dict[int, Schedule]:
    """Return the source's own schedule, and DDIM of other numbers of steps beside it."""
    counts = dict.fromkeys((*also, sampling.steps))
    return {n: Schedule('ancestral' if sampling.ancestral and n == sampling.steps else
                        'ddim_unclipped', leading(sampling.levels, n, where)) for n in counts}


def leading(levels: tuple[float, ...], count: int, where: str) -> tuple[float, ...]:
    """Return `count` falling levels as diffusers spaces them by default, from the cleanest."""
    if not 1 <= count <= len(levels):
        raise BundleError(f'{where}: {count} inference steps of {len(levels)} training steps; use '
                          f'1..{len(levels)}')
    ratio = len(levels) // count
    return tuple(levels[i * ratio] for i in reversed(range(count)))
