"""From a source and the robot's names to a spec, networks and a bundle."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_policy_rt.engines.bundle import Bundle
from diffusion_policy_rt.errors import BundleError
from diffusion_policy_rt.spec import ActionSpec, CameraSpec, PolicySpec, VectorSpec
from diffusion_policy_rt.train.export import export_bundle
from diffusion_policy_rt.train.importing.networks import make_policy
from diffusion_policy_rt.train.importing.sampling import precond, schedules
from diffusion_policy_rt.train.importing.source import Camera, Source
from diffusion_policy_rt.train.importing.streams import stream_recipe
from diffusion_policy_rt.train.importing.statistics import Affine

REACH = 10.0
"""Bound of the actions of a sampler that does not clip, in normalised units."""


@dataclass(frozen=True)
class Robot:
    """What a checkpoint does not know."""

    rate: float
    """Actions per second that the policy was trained on [Hz]."""
    state: Sequence[str] = ()
    """Names of the state's values; empty numbers them."""
    action: Sequence[str] = ()
    unit: str = ''
    cameras: Mapping[str, str] = field(default_factory=dict)
    """Our camera's name -> the source's key."""
    steps: Sequence[int] = (1, 2, 4, 8, 10)
    """Network calls of DDIM to serve beside the source's own number."""


def make_spec(source: Source, robot: Robot, name: str) -> PolicySpec:
    """Make the spec; SpecError or BundleError where names do not fit the source."""
    camera_names = name_cameras(source, robot.cameras)
    state = _joined(source.state.values())
    sampling = source.sampling
    served = [n for n in robot.steps if n <= len(sampling.levels)]
    reach = sampling.clip or REACH
    return PolicySpec(
        name=name, cameras=tuple(_camera(c, camera_names[c.key], source)
                                 for c in source.cameras),
        state=VectorSpec(**_vector(state, robot.state, 'state', robot.unit, REACH, source)),
        action=ActionSpec(**_vector(source.action, robot.action, 'action', robot.unit, reach,
                                    source)),
        n_obs=source.n_obs, horizon=source.horizon, n_action_steps=source.n_action_steps,
        rate=robot.rate, precond=precond(sampling), clip=sampling.clip,
        schedules=schedules(sampling, served, source.title))


def name_cameras(source: Source, asked: Mapping[str, str]) -> dict[str, str]:
    """Return our name of each of the source's cameras."""
    keys = [camera.key for camera in source.cameras]
    for name, key in asked.items():
        if key not in keys or not re.fullmatch('[a-zA-Z][a-zA-Z0-9_]*', name):
            raise BundleError(f'--camera {name}={key}: give a name of letters, digits and '
                              f'underscores, and one of {", ".join(keys)}')
    known = {key: name for name, key in asked.items()}
    return {key: known.get(key) or re.sub(r'\W', '_', key.rpartition('.')[2]) for key in keys}


def _camera(camera: Camera, name: str, source: Source) -> CameraSpec:
    return CameraSpec(name, camera.height, camera.width, source.latent_dim, source.crop,
                      tuple(camera.pixels.offset), tuple(camera.pixels.scale))


def _joined(maps: Iterable[Affine]) -> Affine:
    return Affine(*(np.concatenate(parts) for parts in zip(*maps)))


def _vector(values: Affine, names: Sequence[str], what: str, unit: str, reach: float,
            source: Source) -> dict[str, Any]:
    count = len(values.offset)
    if names and len(names) != count:
        raise BundleError(f'{source.title}: its {what} has {count} values, but {len(names)} names '
                          f'were given: {", ".join(names)}')
    names = names or [f'{what}_{i}' for i in range(count)]
    # bounds a rounding wider than what is reached, or they would cut the last bit
    span = reach * values.scale + 1e-6 * np.maximum(values.scale, np.abs(values.offset))
    return {'names': tuple(names), 'units': (unit,) * count, 'offset': tuple(values.offset),
            'scale': tuple(values.scale), 'low': tuple(values.offset - span),
            'high': tuple(values.offset + span)}


def write(source: Source, robot: Robot, folder: Path, provenance: Mapping[str, Any]) -> Bundle:
    """Write the source as a bundle, whole or not at all."""
    spec = make_spec(source, robot, folder.name)
    model = {'encoder': dict(source.encoder), 'denoiser': dict(source.denoiser)}
    policy = make_policy(source, spec, model)
    recipe = stream_recipe(source, spec)
    told = {'source': source.title, 'statistics': source.statistics,
            'source_steps': source.sampling.steps}
    facts = {'training': {**({'recipe': recipe} if recipe else {}), **told},
             'quality': {}, 'provenance': dict(provenance)}
    return export_bundle(policy, model, folder, facts)
