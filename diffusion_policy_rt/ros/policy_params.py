"""The parameters whose names a policy decides: those of its actions and its cameras."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from diffusion_policy_rt.ros.param import Param, stale_params
from diffusion_policy_rt.ros.param_table import TABLE
from diffusion_policy_rt.runtime.tiles import TileRule
from diffusion_policy_rt.spec import PolicySpec

INF = float('inf')


def action_params(names: Iterable[str], low: Iterable[float],
                  high: Iterable[float]) -> list[Param]:
    """Return the parameters of a policy's actions, bounded by `low` and `high`."""
    params: list[Param] = []
    for name, lo, hi in zip(names, low, high):
        params += [
            Param(f'limits.{name}.min_position', float(lo), 'Lowest value published [unit].'),
            Param(f'limits.{name}.max_position', float(hi), 'Highest value published [unit].'),
            Param(f'limits.{name}.max_velocity', INF,
                  'Largest rate of change published, from the measured state on; of a velocity, '
                  'whose rate is an acceleration, from the last one published on [unit/s].'),
            Param(f'limits.{name}.max_acceleration', INF,
                  'Largest change of the rate of a position; it is also braked in time for its '
                  'limits, for where the chunk turns and when it is held [unit/s^2].')]
    return params


def camera_params(name: str) -> list[Param]:
    """Return the parameters of one camera."""
    return [
        Param(f'cameras.{name}.topic', f'camera/{name}/image_raw',
              'Topic of the raw images; compressed ones are on <topic>/compressed.'),
        Param(f'cameras.{name}.transport', 'raw', 'Type of the images.',
              choices=('raw', 'compressed')),
        Param(f'cameras.{name}.min_brightness', 2.0,
              'Mean of the pixels below which an image is black and not planned from; 0 accepts '
              'all.', 0, 255),
        Param(f'cameras.{name}.frozen_timeout', 0.0,
              'Time over which pixels that do not change count as frozen [s]; 0 accepts all. The '
              'noise of a real camera changes them in every image, a simulated one may stand '
              'still.', 0, 60),
        *stale_params(f'cameras.{name}', 'the camera')]


def tile_params(name: str, rule: TileRule) -> list[Param]:
    """Return the parameters that say when parts of a camera's image are not encoded again."""
    prefix = f'cache.{name}'
    return [
        Param(f'{prefix}.tiles', rule.tiles,
              'Encode only the parts of an image that changed, where the policy\'s encoder and '
              'the engine allow it.', live=True),
        Param(f'{prefix}.threshold', rule.threshold,
              'Largest difference of a pixel that counts as no change, of 255; 0 changes no '
              'action.', 0, 255, live=True),
        Param(f'{prefix}.max_age', rule.max_age,
              'Age above which an image is encoded whole again [s]; 0 sets no limit.', 0, 3600,
              live=True)]


def policy_params(spec: PolicySpec) -> list[Param]:
    """Return the parameters whose names a policy decides; declared when its bundle is read."""
    return [*action_params(spec.action.names, spec.action.low, spec.action.high),
            *(param for camera in spec.cameras for param in (
                *camera_params(camera.name), *tile_params(camera.name, TileRule.of(camera))))]


def defaults(spec: PolicySpec) -> dict[str, Any]:
    """Return the value that each parameter has where none is given."""
    return {param.name: param.default for param in [*TABLE, *policy_params(spec)]}
