"""The recipe of an imported policy: which streams of its data it was trained on."""

from __future__ import annotations

from typing import Any

from diffusion_policy_rt.spec import PolicySpec, VectorSpec
from diffusion_policy_rt.train.importing.source import Source

UNTOLD = {'epochs': 1, 'batch_size': 64, 'learning_rate': 1e-4}
"""How it was trained is not told; a recipe needs some."""


def stream_recipe(source: Source, spec: PolicySpec, action: str = 'action') -> dict[str, Any]:
    """Return a recipe as YAML data, for quantizing and distilling on the source's data.

    Empty where the state is joined from several streams, which no recipe can say.
    """
    if len(source.state) != 1:
        return {}
    cameras = {ours.name: {'keys': [theirs.key], 'height': ours.height, 'width': ours.width,
                           'crop': ours.crop}
               for ours, theirs in zip(spec.cameras, source.cameras)}
    return {'name': spec.name, 'rate': spec.rate, 'cameras': cameras,
            'state': _vector(spec.state, next(iter(source.state))),
            'action': _vector(spec.action, action), 'n_obs': spec.n_obs,
            'horizon': spec.horizon, 'n_action_steps': spec.n_action_steps,
            'steps': list(spec.steps), 'encoder': dict(source.encoder),
            'denoiser': dict(source.denoiser), 'train': UNTOLD, 'parametrisation': 'ddpm',
            'ddpm_levels': len(source.sampling.levels)}


def _vector(vector: VectorSpec, key: str) -> dict[str, Any]:
    return {'keys': [key], 'names': list(vector.names), 'units': list(vector.units),
            'low': list(vector.low), 'high': list(vector.high)}
