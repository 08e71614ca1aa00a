"""Checkpoints of the original Diffusion Policy code: its U-Nets and transformers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from diffusion_policy_rt.errors import BundleError
from diffusion_policy_rt.model.attention import separated
from diffusion_policy_rt.train.importing.original_config import kind_of, resolved, sampling
from diffusion_policy_rt.train.importing.original_encoders import SAME, Vision, hybrid, image
from diffusion_policy_rt.train.importing.source import Camera, Source
from diffusion_policy_rt.train.importing.statistics import Affine
from diffusion_policy_rt.train.importing.unpickle import plain, read_pickle
from diffusion_policy_rt.train.importing.weights import renamed

OBSERVED = 'obs'
"""What the code calls the one vector of a policy without images."""


def read_original(path: Path) -> Source:
    """Read a `.ckpt` file; BundleError for a policy that is not supported."""
    data = read_pickle(path)
    lacking = [key for key in ('cfg', 'state_dicts') if key not in data]
    if lacking:
        raise BundleError(f'{path} is no checkpoint of the original Diffusion Policy: it has no '
                          f'{lacking[0]!r}; give the file that its workspace saved')
    config, weights = resolved(plain(data['cfg'])), data['state_dicts']
    chosen = 'ema_model' if 'ema_model' in weights else 'model'
    return _source(path, config['policy'], weights[chosen])


def _source(path: Path, policy: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Source:
    kind = kind_of(policy, path)
    seen = {'hybrid': hybrid, 'image': image, 'vector': _vector}[kind.sees](policy, tensors, path)
    shapes, dim = _shapes(policy)
    denoiser = {'unet': _unet, 'transformer': _transformer}[kind.denoiser](policy)
    return Source(
        title=f'Diffusion Policy checkpoint {path}',
        cameras=tuple(Camera(key, shape[1], shape[2], _then(_map(tensors, key, 3, path),
                                                            seen.pixels))
                      for key, shape in shapes.items() if len(shape) == 3),
        state={key: _map(tensors, key, shape[0], path) for key, shape in shapes.items()
               if len(shape) == 1},
        action=_map(tensors, 'action', dim, path), n_obs=policy['n_obs_steps'],
        horizon=policy['horizon'], n_action_steps=policy['n_action_steps'],
        sampling=sampling(policy, path), encoder=seen.encoder, latent_dim=seen.latent_dim,
        crop=seen.crop, denoiser=denoiser, weights=seen.weights | _denoiser_weights(tensors),
        order=seen.order)


def _shapes(policy: Mapping[str, Any]) -> tuple[dict[str, list[int]], int]:
    """Return the shape of each thing observed, and the number of an action's values."""
    if 'shape_meta' not in policy:
        return {OBSERVED: [policy['obs_dim']]}, policy['action_dim']
    meta = policy['shape_meta']
    return {key: list(f['shape']) for key, f in meta['obs'].items()}, meta['action']['shape'][0]


def _vector(policy: Mapping[str, Any], tensors: Mapping[str, Tensor], path: Path) -> Vision:
    """Return what a policy sees that sees no images."""
    return Vision((OBSERVED,), {}, 0, None, {}, SAME)


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


def _then(first: Affine, second: Affine) -> Affine:
    """Return the map that does one after the other."""
    return Affine(first.offset + second.offset * first.scale, first.scale * second.scale)


def _unet(policy: Mapping[str, Any]) -> dict[str, Any]:
    alone = {'kernel_size': 3, 'cond_predict_scale': False}
    mixed = {'kernel_size': 5, 'cond_predict_scale': True}
    net = {**alone, **policy['model']} if 'model' in policy else {**mixed, **policy}
    return {'kind': 'unet', 'down_dims': list(net.get('down_dims', (256, 512, 1024))),
            'kernel_size': net['kernel_size'], 'groups': net.get('n_groups', 8),
            'final_groups': 8, 'step_dim': net.get('diffusion_step_embed_dim', 256),
            'film_scale': net['cond_predict_scale']}


def _transformer(policy: Mapping[str, Any]) -> dict[str, Any]:
    alone = {'n_emb': 768, 'n_layer': 12, 'n_head': 12, 'causal_attn': False}
    mixed = {'n_emb': 256, 'n_layer': 8, 'n_head': 4, 'causal_attn': True}
    net = {**alone, **policy['model']} if 'model' in policy else {**mixed, **policy}
    return {'kind': 'transformer', 'width': net['n_emb'], 'layers': net['n_layer'],
            'heads': net['n_head'], 'causal': net['causal_attn']}


def _denoiser_weights(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    made = {}
    for name, tensor in renamed(tensors, 'model.', 'denoiser.').items():
        name = re.sub(r'\.blocks\.([01])\.', lambda m: f'.conv{int(m[1]) + 1}.', name)
        made[re.sub(r'(_modules\.\d+\.2)\.conv\.', r'\1.', name)] = tensor
    return separated(made)
