"""From a source and the robot's names to a spec, networks and a bundle."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffusion_policy_rt.engines.bundle import Bundle
from diffusion_policy_rt.errors import BundleError
from diffusion_policy_rt.model.policy import Policy
from diffusion_policy_rt.spec import ActionSpec, CameraSpec, PolicySpec, VectorSpec
from diffusion_policy_rt.train.export import export_bundle
from diffusion_policy_rt.train.importing.sampling import precond, schedules
from diffusion_policy_rt.train.importing.source import Camera, Source
from diffusion_policy_rt.train.importing.streams import stream_recipe
from diffusion_policy_rt.train.importing.statistics import Affine
from diffusion_policy_rt.train.importing.weights import reorder_condition

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


def make_policy(source: Source, spec: PolicySpec, model: Mapping[str, Any]) -> Policy:
    """Build the networks with the source's weights; BundleError where these do not fit."""
    policy = Policy(spec, model)
    weights = {name: tensor.contiguous() for name, tensor in reorder_condition(
        _named(source, spec), source.denoiser.get('step_dim', 0), source.n_obs,
        columns(source)).items()}
    wanted = policy.state_dict()
    odd = sorted(wanted.keys() ^ weights.keys()) or [
        name for name in wanted if wanted[name].shape != weights[name].shape]
    if odd:
        have, want = (list(of[odd[0]].shape) if odd[0] in of else 'nothing'
                      for of in (weights, wanted))
        raise BundleError(f'{source.title}: the weights hold {have} at {odd[0]}, the '
                          f'configuration wants {want}; they must belong together')
    if not all(torch.isfinite(tensor).all() for tensor in weights.values()):
        raise BundleError(f'{source.title}: a weight is not finite; take another checkpoint')
    policy.load_state_dict(weights)
    return policy.eval()


def _named(source: Source, spec: PolicySpec) -> dict[str, torch.Tensor]:
    """Return the weights with the cameras by our names."""
    named = dict(source.weights)
    for ours, camera in zip(spec.cameras, source.cameras):
        head = f'encoders.{camera.key}.'
        for name in [n for n in source.weights if n.startswith(head)]:
            del named[name]
        named |= {f'encoders.{ours.name}.{name.removeprefix(head)}': tensor
                  for name, tensor in source.weights.items() if name.startswith(head)}
    return named


def columns(source: Source) -> list[int]:
    """Return, for each value of our condition at one instant, its place in the source's."""
    sizes = {camera.key: source.latent_dim for camera in source.cameras}
    sizes |= {key: len(values.offset) for key, values in source.state.items()}
    starts, width = {}, 0
    for key in source.order:
        starts[key], width = width, width + sizes[key]
    return list(chain.from_iterable(range(starts[key], starts[key] + sizes[key])
                                    for key in sizes))


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
