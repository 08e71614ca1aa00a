"""The configuration of a policy of the original code: which it is, and how it samples."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from diffusion_policy_rt.errors import BundleError
from diffusion_policy_rt.train.importing.sampling import noise_levels
from diffusion_policy_rt.train.importing.source import Sampling


class Kind(NamedTuple):
    """What a policy is made of."""

    sees: str
    """`hybrid` (robomimic's encoders), `image` (torchvision's) or `vector`."""
    denoiser: str
    """`unet` or `transformer`."""
    untold: Mapping[str, Any] = {}
    """What its class takes for options that a configuration leaves out, where others differ."""


KINDS = {
    'DiffusionUnetHybridImagePolicy': Kind('hybrid', 'unet'),
    'DiffusionUnetImagePolicy': Kind('image', 'unet'),
    'DiffusionUnetLowdimPolicy': Kind('vector', 'unet', {
        'obs_as_global_cond': False, 'oa_step_convention': False}),
    'DiffusionTransformerHybridImagePolicy': Kind('hybrid', 'transformer'),
    'DiffusionTransformerLowdimPolicy': Kind('vector', 'transformer', {'obs_as_cond': False})}
ACCEPTED: Mapping[str, tuple[Any, ...]] = {
    'obs_as_local_cond': (False,), 'obs_as_global_cond': (True,), 'oa_step_convention': (True,),
    'obs_as_cond': (True,), 'time_as_cond': (True,),
    'n_cond_layers': (0,), 'pred_action_steps_only': (False,),
    'variance_type': ('fixed_small', 'fixed_small_log'), 'set_alpha_to_one': (True,),
    'steps_offset': (0,), 'trained_betas': (None,), 'thresholding': (False,),
    'timestep_spacing': ('leading',), 'eta': (0,), 'use_clipped_model_output': (False,)}
"""Options of policies and schedulers with the values that we can do; the first is the default."""


def resolved(config: Any) -> Any:
    """Replace values like `${horizon}` by what they refer to."""
    def look(value: Any, depth: int = 0) -> Any:
        if isinstance(value, dict):
            return {key: look(item, depth) for key, item in value.items()}
        if isinstance(value, list):
            return [look(item, depth) for item in value]
        path = re.fullmatch(r'\$\{([\w.]+)\}', value) if isinstance(value, str) else None
        if path is None or depth > 8:
            return value
        found = config
        for name in path[1].split('.'):
            found = found[name]
        return look(found, depth + 1)

    return look(config)


def last(target: Any) -> str:
    """Return the class or function that a `_target_` names."""
    return str(target).rpartition('.')[2]


def kind_of(policy: Mapping[str, Any], path: Path) -> Kind:
    """Return the policy's kind; BundleError for one that is not supported, or an option of it."""
    name = last(policy['_target_'])
    if name not in KINDS:
        raise BundleError(f'{path}: a policy of type {name} cannot be imported; of the original '
                          f'code {", ".join(KINDS)} can')
    kind = KINDS[name]
    for part in ({**kind.untold, **policy}, policy.get('model', {}), policy['noise_scheduler']):
        check(part, path)
    return kind


def check(part: Mapping[str, Any], path: Path) -> None:
    """Raise BundleError for an option that makes another policy of it."""
    for name, accepted in ACCEPTED.items():
        if part.get(name, accepted[0]) not in accepted:
            raise BundleError(f'{path}: a policy with {name} {part[name]!r} cannot be imported; '
                              f'one with {name} {accepted[0]!r} can')


def sampling(policy: Mapping[str, Any], path: Path) -> Sampling:
    """Return how the policy samples; BundleError for what we do not know."""
    how = policy['noise_scheduler']
    kind, total = last(how['_target_']), how['num_train_timesteps']
    predicts = {'epsilon': 'noise', 'sample': 'sample'}.get(how.get('prediction_type', 'epsilon'))
    if kind not in ('DDPMScheduler', 'DDIMScheduler') or predicts is None:
        raise BundleError(f'{path}: {kind} with prediction_type {how.get("prediction_type")!r} is '
                          'not supported; DDPM and DDIM with epsilon or sample are')
    levels = noise_levels(how.get('beta_schedule', 'linear'), total, how.get('beta_start', 1e-4),
                          how.get('beta_end', 0.02), str(path))
    return Sampling(levels, predicts, policy.get('num_inference_steps') or total,
                    kind == 'DDPMScheduler', 1.0 if how.get('clip_sample', True) else None)
