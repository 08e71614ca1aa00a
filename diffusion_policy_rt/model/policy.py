"""A policy's networks, assembled from its spec and its model configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from diffusion_policy_rt.errors import SpecError
from diffusion_policy_rt.model.dit import DiTDenoiser
from diffusion_policy_rt.model.encoder import (
    KeypointEncoder, MeanResNetEncoder, ResNetEncoder)
from diffusion_policy_rt.model.mlp import MLPDenoiser
from diffusion_policy_rt.model.transformer import TransformerDenoiser
from diffusion_policy_rt.model.unet import ConditionalUnet1D
from diffusion_policy_rt.spec import PolicySpec

ENCODERS = {'resnet': ResNetEncoder, 'resnet_mean': MeanResNetEncoder,
            'keypoint': KeypointEncoder}
DENOISERS = {'unet': ConditionalUnet1D, 'mlp': MLPDenoiser, 'transformer': TransformerDenoiser,
             'dit': DiTDenoiser}


def _make(kinds: Mapping[str, type], config: Mapping[str, Any], what: str, **shape: int) -> Any:
    options = dict(config)
    kind = options.pop('kind', None)
    if kind not in kinds:
        raise SpecError(f'{what} kind {kind!r}: use one of {", ".join(kinds)}')
    try:
        return kinds[kind](**shape, **options)
    except (TypeError, ValueError) as error:
        said = str(error).partition('\n')[0]  # torch adds its stack
        raise SpecError(f'{what} {kind}: {said}') from error


def make_encoder(config: Mapping[str, Any]) -> nn.Module:
    """Build the encoder that `config` ({'kind': one of ENCODERS, ...}) describes."""
    return _make(ENCODERS, config, 'encoder')


def make_denoiser(spec: PolicySpec, config: Mapping[str, Any]) -> nn.Module:
    """Build the raw network that `config` ({'kind': one of DENOISERS, ...}) describes."""
    shape = {'action_dim': len(spec.action), 'horizon': spec.horizon, 'cond_dim': spec.cond_dim}
    if config.get('kind') == 'transformer':  # it has a token per instant
        shape |= {'n_obs': spec.n_obs, 'observed_dim': spec.observed_dim}
    return _make(DENOISERS, config, 'denoiser', **shape)


class Policy(nn.Module):
    """One encoder per camera and one denoiser.

    `model` is {'encoder': {'kind', ...}, 'denoiser': {'kind', ...}}; shapes come from the spec.
    """

    def __init__(self, spec: PolicySpec, model: Mapping[str, Any]) -> None:
        super().__init__()
        self.spec = spec
        self.encoders = nn.ModuleDict({c.name: make_encoder(model.get('encoder', {}))
                                       for c in spec.cameras})
        for camera in spec.cameras:
            made = self.encoders[camera.name].latent_dim
            if made != camera.latent_dim:
                raise SpecError(f'camera {camera.name}: the encoder makes {made} values, '
                                f'the spec says {camera.latent_dim}')
        told = bool(model.get('denoiser', {}).get('stop_time', False))
        if told != spec.precond.stop_time:
            raise SpecError(f'policy {spec.name}: the denoiser has stop_time {told}, the '
                            f'preconditioning {spec.precond.stop_time}; make them equal')
        self.model = model
        self.denoiser = self.make_denoiser()

    def make_denoiser(self) -> nn.Module:
        """Build a denoiser like its own."""
        return make_denoiser(self.spec, self.model.get('denoiser', {}))

    def another(self) -> Policy:
        """Build a policy like it."""
        return Policy(self.spec, self.model)

    def observed(self, latents: Mapping[str, Tensor], states: Tensor) -> Tensor:
        """Join latents {camera: [B, n_obs, L]} and normalised states [B, n_obs, S].

        Returns [B, observed_dim]; the order is that of `runtime.observation.observed`: per
        instant, oldest first, the cameras in the spec's order and then the state.
        """
        parts = [latents[camera.name] for camera in self.spec.cameras]
        return torch.cat([*parts, states], dim=-1).flatten(1)

    def encode(self, images: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Encode {camera: [B, n_obs, 3, h, w]} to {camera: [B, n_obs, L]}."""
        return {name: self.encoders[name](x.flatten(0, 1)).unflatten(0, x.shape[:2])
                for name, x in images.items()}


def parts(policy: Policy) -> dict[str, nn.Module]:
    """Return the networks that run one by one: `encoder_<camera>` of each camera, `denoiser`."""
    encoders = {f'encoder_{name}': net for name, net in policy.encoders.items()}
    return {**encoders, 'denoiser': policy.denoiser}
