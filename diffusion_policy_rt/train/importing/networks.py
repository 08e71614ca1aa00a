"""The networks of a source, with its weights."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any

import torch

from diffusion_policy_rt.errors import BundleError
from diffusion_policy_rt.model.policy import Policy
from diffusion_policy_rt.spec import PolicySpec
from diffusion_policy_rt.train.importing.source import Source
from diffusion_policy_rt.train.importing.weights import reorder_condition


def make_policy(source: Source, spec: PolicySpec, model: Mapping[str, Any]) -> Policy:
    """Build the networks with the source's weights; BundleError where these do not fit."""
    named = _named(source, spec)
    _check_shapes(source, _shapes(source, spec, model), named)
    weights = {name: tensor.contiguous() for name, tensor in reorder_condition(
        named, source.denoiser.get('step_dim', 0), source.n_obs, columns(source)).items()}
    if not all(torch.isfinite(tensor).all() for tensor in weights.values()):
        raise BundleError(f'{source.title}: a weight is not finite; take another checkpoint')
    policy = Policy(spec, model)
    policy.load_state_dict(weights)
    return policy.eval()


def _shapes(source: Source, spec: PolicySpec, model: Mapping[str, Any]) -> dict[str, torch.Size]:
    """Return the shape of each weight, without room for it: a damaged number may be any."""
    try:
        with torch.device('meta'):
            return {name: t.shape for name, t in Policy(spec, model).state_dict().items()}
    except (RuntimeError, ArithmeticError) as error:
        why = ' '.join(str(error).split())[:160]
        raise BundleError(f'{source.title}: no network has its configuration ({why}); copy the '
                          'checkpoint again') from error


def _check_shapes(source: Source, wanted: dict[str, torch.Size],
                  weights: Mapping[str, torch.Tensor]) -> None:
    """Raise BundleError where the weights are not those that the configuration describes."""
    have = {name: tensor.shape for name, tensor in weights.items()}
    odd = sorted(name for name in wanted | have if wanted.get(name) != have.get(name))
    if odd:
        found, asked = (list(of[odd[0]]) if odd[0] in of else 'nothing' for of in (have, wanted))
        raise BundleError(f'{source.title}: the weights hold {found} at {odd[0]}, the '
                          f'configuration wants {asked}; they must belong together')


def _named(source: Source, spec: PolicySpec) -> dict[str, torch.Tensor]:
    """Return the weights with the cameras by our names."""
    ours = {f'encoders.{theirs.key}.': f'encoders.{camera.name}.'
            for camera, theirs in zip(spec.cameras, source.cameras)}
    named = {}
    for name, tensor in source.weights.items():
        # of cameras whose keys begin alike the longest
        head = max(filter(name.startswith, ours), key=len, default='')
        named[ours.get(head, '') + name.removeprefix(head)] = tensor
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
