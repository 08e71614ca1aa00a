"""The methods of `dprt distill`: what each needs of its student, and how its loss is put together.

A method's student is told the stop level or not, starts as its teacher or from nothing, and is
sampled by schedules of the levels that it was trained at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from diffusion_policy_rt.runtime.schedule import flow_sigmas, karras_sigmas
from diffusion_policy_rt.spec import Schedule
from diffusion_policy_rt.train.distill.consistency import Consistency, ConsistencyOptions
from diffusion_policy_rt.train.distill.dmd import DMD2, DMDOptions
from diffusion_policy_rt.train.distill.fastgen_loss import MODELS, FastGenLoss, FastGenOptions
from diffusion_policy_rt.train.distill.meanflow import MeanFlow, MeanFlowOptions
from diffusion_policy_rt.train.distill.networks import Loss, Networks
from diffusion_policy_rt.train.distill.onedp import OneDP, OneDPOptions


@dataclass(frozen=True)
class Method:
    """One entry of the table."""

    options: type
    make: Callable[[Networks, Any], Loss]
    schedules: Callable[[Any, tuple[int, ...]], dict[int, Schedule]]
    kind: str | None = None
    """The student's parametrisation where it is not the teacher's."""
    denoiser: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the student's network that differ from the teacher's."""

    @property
    def stop_time(self) -> bool:
        """Whether the student is told the level that a step goes to."""
        return bool(self.denoiser.get('stop_time', False))

    @property
    def from_teacher(self) -> bool:
        """Whether the student starts with its teacher's weights: those of one parametrisation."""
        return self.kind is None


def _consistency(networks: Networks, how: ConsistencyOptions) -> Loss:
    student, average, teacher, _ = networks.denoisers()
    return Consistency(student, average, teacher, networks.precond.sigma_data, how)


def _dmd2(networks: Networks, how: DMDOptions) -> Loss:
    student, _, teacher, critic = networks.denoisers()
    return DMD2(student, teacher, critic, networks.critic, how)


def _onedp(networks: Networks, how: OneDPOptions, stochastic: bool = True) -> Loss:
    student, _, teacher, critic = networks.denoisers()
    return OneDP(student, teacher, critic if stochastic else None,
                 networks.critic if stochastic else None, networks.precond.sigma_data, how)


def _renoised(levels: Sequence[float], steps: tuple[int, ...]) -> dict[int, Schedule]:
    return {n: Schedule('renoise', every_nth(levels, n)) for n in steps}


def _point(how: OneDPOptions, steps: tuple[int, ...]) -> dict[int, Schedule]:
    if tuple(steps) != (1,) or len(how.levels) != 1:
        raise ValueError(f'onedp-d serves one step from one level, not {list(steps)} of '
                         f'{list(how.levels)}')
    return {1: Schedule('point', how.levels)}


def _path(how: ConsistencyOptions, steps: tuple[int, ...]) -> dict[int, Schedule]:
    sigmas = tuple(karras_sigmas(max(steps) + 1, how.sigma_min, how.sigma_max)[:-1])
    return _renoised(sigmas, steps)  # along the path itself the errors of the jumps add up


def every_nth(sigmas: Sequence[float], steps: int) -> tuple[float, ...]:
    """Return the levels that a student of these levels visits in `steps` calls."""
    if steps < 1 or len(sigmas) % steps:
        raise ValueError(f'{steps} steps do not divide the {len(sigmas)} levels of the student')
    return tuple(sigmas[::len(sigmas) // steps])


def _fastgen(name: str) -> Method:
    def make(networks: Networks, how: FastGenOptions) -> Loss:
        return FastGenLoss(name, networks, how)

    if name == 'meanflow':
        return Method(FastGenOptions, make, lambda how, steps: _along_flow(how.sigmas[0], steps),
                      **FLOW)
    return Method(FastGenOptions, make, lambda how, steps: _renoised(how.sigmas, steps))


def _along_flow(sigma_max: float, steps: tuple[int, ...]) -> dict[int, Schedule]:
    return {n: Schedule('ddim', tuple(flow_sigmas(n, sigma_max))) for n in steps}


FLOW: Mapping[str, Any] = {
    # the loss differentiates by the time, so the embedding must be smooth
    'kind': 'flow', 'denoiser': {'stop_time': True, 'step_frequency': 0.01}}
METHODS: Mapping[str, Method] = {
    'consistency': Method(ConsistencyOptions, _consistency, _path,
                          denoiser={'stop_time': True}),
    'dmd2': Method(DMDOptions, _dmd2, lambda how, steps: _renoised(how.sigmas, steps)),
    'onedp-s': Method(OneDPOptions, _onedp, lambda how, steps: _renoised(how.levels, steps)),
    'onedp-d': Method(OneDPOptions, lambda networks, how: _onedp(networks, how, False), _point),
    'meanflow': Method(
        MeanFlowOptions, lambda networks, how: MeanFlow(networks.student, how),
        lambda how, steps: _along_flow(how.sigma_max, steps), **FLOW),
    **{f'fastgen-{name}': _fastgen(name) for name in MODELS},
}
