"""Checkpoints of the original Diffusion Policy code: its hybrid image U-Net workspace."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from diffusion_policy_rt.errors import BundleError
from diffusion_policy_rt.train.importing.sampling import noise_levels
from diffusion_policy_rt.train.importing.source import Camera, Sampling, Source
from diffusion_policy_rt.train.importing.statistics import Affine
from diffusion_policy_rt.train.importing.unpickle import plain, read_pickle
from diffusion_policy_rt.train.importing.weights import fold_norms, renamed

SUPPORTED = 'DiffusionUnetHybridImagePolicy'
PARTS = {'nets.0.nets.': 'backbone.', 'nets.1.nets.': 'pool.nets.', 'nets.3.': 'out.'}
"""robomimic's names of an encoder's parts, and ours."""


def read_original(path: Path) -> Source:
    """Read a `.ckpt` file; BundleError for a policy that is not supported."""
    data = read_pickle(path)
    try:
        config, weights = resolved(plain(data['cfg'])), data['state_dicts']
        chosen = 'ema_model' if 'ema_model' in weights else 'model'
        return _source(path, config['policy'], weights[chosen])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BundleError(f'{path} is no checkpoint of the original Diffusion Policy, or one of '
                          f'an unknown form ({type(error).__name__}: {error})') from error


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


def _source(path: Path, policy: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Source:
    kind = str(policy['_target_']).rpartition('.')[2]
    if kind != SUPPORTED or not policy.get('obs_as_global_cond', True):
        raise BundleError(f'{path}: a policy of type {kind} cannot be imported; of the original '
                          f'code {SUPPORTED} with obs_as_global_cond can')
    features = policy['shape_meta']['obs']
    cameras = {key: f['shape'] for key, f in features.items() if f.get('type') == 'rgb'}
    vectors = {key: f['shape'][0] for key, f in features.items() if key not in cameras}
    dim = int(policy['shape_meta']['action']['shape'][0])
    crop = policy.get('crop_shape', [76, 76])
    encoders = {key: _encoder(tensors, key) for key in cameras}
    first = next(iter(encoders.values()))
    return Source(
        title=f'Diffusion Policy checkpoint {path}',
        cameras=tuple(Camera(key, shape[1], shape[2], _map(tensors, key, 3, path))
                      for key, shape in cameras.items()),
        state={key: _map(tensors, key, size, path) for key, size in vectors.items()},
        action=_map(tensors, 'action', dim, path), n_obs=policy['n_obs_steps'],
        horizon=policy['horizon'], n_action_steps=policy['n_action_steps'],
        sampling=_sampling(path, policy),
        encoder={'kind': 'resnet', 'keypoints': len(first['pool.nets.weight']),
                 'latent_dim': len(first['out.weight']),
                 'folded': 'backbone.1.weight' not in first},
        crop=(crop[0], crop[1]) if crop else None, denoiser=_denoiser(policy),
        weights=_unet(tensors) | {f'encoders.{key}.{name}': tensor
                                  for key, of in encoders.items() for name, tensor in of.items()},
        order=tuple(features))


def _encoder(tensors: Mapping[str, Tensor], key: str) -> dict[str, Tensor]:
    made: dict[str, Tensor] = {}
    for theirs, ours in PARTS.items():
        made |= renamed(tensors, f'obs_encoder.obs_nets.{key}.{theirs}', ours)
    return fold_norms(made)


def _unet(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    made = {}
    for name, tensor in renamed(tensors, 'model.', 'denoiser.').items():
        name = re.sub(r'\.blocks\.([01])\.', lambda m: f'.conv{int(m[1]) + 1}.', name)
        made[re.sub(r'(_modules\.\d+\.2)\.conv\.', r'\1.', name)] = tensor
    return made


def _map(tensors: Mapping[str, Tensor], key: str, size: int, path: Path) -> Affine:
    """Return the affine map whose inverse's form, x scale + offset, the checkpoint holds."""
    head = f'normalizer.params_dict.{key}.'
    if head + 'scale' not in tensors:
        raise BundleError(f'{path}: the statistics of {key!r} are missing; take a checkpoint that '
                          'was saved after training began')
    scale, offset = (np.broadcast_to(tensors[head + name].double().numpy().reshape(-1), (size,))
                     for name in ('scale', 'offset'))
    if not np.isfinite([scale, offset]).all() or (scale <= 0).any():
        raise BundleError(f'{path}: the statistics of {key!r} are not finite and above zero; take '
                          'another checkpoint')
    return Affine(-offset / scale, 1 / scale)


def _denoiser(policy: Mapping[str, Any]) -> dict[str, Any]:
    return {'kind': 'unet', 'down_dims': list(policy.get('down_dims', (256, 512, 1024))),
            'kernel_size': policy.get('kernel_size', 5), 'groups': policy.get('n_groups', 8),
            'final_groups': 8, 'step_dim': policy.get('diffusion_step_embed_dim', 256),
            'film_scale': policy.get('cond_predict_scale', True)}


def _sampling(path: Path, policy: Mapping[str, Any]) -> Sampling:
    how = policy['noise_scheduler']
    kind, total = str(how['_target_']).rpartition('.')[2], int(how['num_train_timesteps'])
    predicts = {'epsilon': 'noise', 'sample': 'sample'}.get(how.get('prediction_type', 'epsilon'))
    if kind not in ('DDPMScheduler', 'DDIMScheduler') or predicts is None:
        raise BundleError(f'{path}: {kind} with prediction_type {how.get("prediction_type")!r} is '
                          'not supported; DDPM and DDIM with epsilon or sample are')
    levels = noise_levels(how.get('beta_schedule', 'linear'), total, how.get('beta_start', 1e-4),
                          how.get('beta_end', 0.02), str(path))
    return Sampling(levels, predicts, policy.get('num_inference_steps') or total,
                    kind == 'DDPMScheduler', 1.0 if how.get('clip_sample', True) else None)
