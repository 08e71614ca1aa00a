"""What parameter values amount to: limits, rules of streams and of caches."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from diffusion_policy_rt.errors import SpecError
from diffusion_policy_rt.runtime.caches import CacheRules
from diffusion_policy_rt.runtime.guard import StreamRule
from diffusion_policy_rt.runtime.limits import Limits
from diffusion_policy_rt.runtime.observation import ROBOT
from diffusion_policy_rt.runtime.tiles import TileRule
from diffusion_policy_rt.spec import PolicySpec


def stream_rules(values: Mapping[str, Any], spec: PolicySpec) -> dict[str, StreamRule]:
    """Return what parameter values ask of each stream."""
    rules = {ROBOT: StreamRule(values['state.on_stale'], values['state.hold_ticks'])}
    for camera in spec.cameras:
        rules[camera.name] = StreamRule(**{
            f.name: values[f'cameras.{camera.name}.{f.name}']
            for f in dataclasses.fields(StreamRule)})
    return rules


def caches_of(values: Mapping[str, Any], spec: PolicySpec) -> CacheRules:
    """Return the rules of all caches among parameter values; SpecError names one that is none."""
    tiles = {camera.name: _tiles_of(values, f'cache.{camera.name}.') for camera in spec.cameras}
    with _named('cache.'):
        return CacheRules(values['cache.capacity'], values['cache.condition'],
                          values['cache.blocks'], values['cache.warm_start'],
                          values['cache.warm_noise'], tiles)


def _tiles_of(values: Mapping[str, Any], prefix: str) -> TileRule:
    with _named(prefix):
        return TileRule(**{
            f.name: values[f'{prefix}{f.name}'] for f in dataclasses.fields(TileRule)})


@contextmanager
def _named(prefix: str) -> Iterator[None]:
    """Let what is refused of a rule bear the name of the parameter, which ends as its field."""
    try:
        yield
    except SpecError as error:
        raise SpecError(f'{prefix}{error}') from error


def action_limits(values: Mapping[str, Any], names: Iterable[str]) -> Limits:
    """Return the limits among parameter values; SpecError where they contradict each other."""
    for name in names:
        prefix = f'limits.{name}'
        if not values[f'{prefix}.min_position'] < values[f'{prefix}.max_position']:
            raise SpecError(f'{prefix}.min_position must lie below {prefix}.max_position')
        for bound in ('max_velocity', 'max_acceleration'):
            if not values[f'{prefix}.{bound}'] > 0:
                raise SpecError(f'{prefix}.{bound} must be above zero; .inf sets no limit')
    return Limits(*(np.array([values[f'limits.{name}.{bound}'] for name in names]) for bound in (
        'min_position', 'max_position', 'max_velocity', 'max_acceleration')))
