"""LeRobot's diffusion policies: a folder with `config.json` and `model.safetensors`.

In the new layout the statistics lie beside the processors that normalise, in the old one among
the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from diffusion_policy_rt.errors import BundleError
from diffusion_policy_rt.train.importing.files import read_json, read_tensors
from diffusion_policy_rt.train.importing.lerobot_config import (
    ACTION, BACKBONES, ENVIRONMENT, STATE, images, read_config, sampling)
from diffusion_policy_rt.train.importing.source import Camera, Source
from diffusion_policy_rt.train.importing.statistics import Affine, affine
from diffusion_policy_rt.train.importing.weights import fold_norms, renamed

Statistics = dict[str, dict[str, np.ndarray]]
PROCESSORS = ('policy_preprocessor.json', 'policy_postprocessor.json')


def read_lerobot(folder: Path, measured: Statistics | None = None) -> Source:
    """Read the folder; `measured` statistics, by LeRobot's keys, stand in for lacking ones."""
    path = folder / 'config.json'
    config, tensors = read_config(path), read_tensors(folder / 'model.safetensors')
    stats, modes = _statistics(folder, tensors)
    modes = {**config['normalization_mapping'], **modes}
    features = {**config['input_features'], **config['output_features']}
    lacking = [key for key in features if not _usable(_of(stats, key))]
    if measured is not None:
        _check_data(features, measured, folder)
        stats = measured if lacking else stats
    maps = {key: _map(key, feature, stats, modes, folder) for key, feature in features.items()}
    sizes = images(config)
    vectors = [key for key in (STATE, ENVIRONMENT) if key in maps]
    return Source(
        title=f'LeRobot diffusion policy {folder}',
        cameras=tuple(Camera(key, *size, maps[key]) for key, size in sizes.items()),
        state={key: maps[key] for key in vectors}, action=maps[ACTION],
        n_obs=config['n_obs_steps'], horizon=config['horizon'],
        n_action_steps=config['n_action_steps'], sampling=sampling(config, path),
        encoder=_encoder(config, next(iter(sizes.values()))) if sizes else {},
        latent_dim=2 * config['spatial_softmax_num_keypoints'], crop=_crop(config),
        denoiser=_denoiser(config), weights=_weights(config, tensors, list(sizes), folder),
        order=(STATE, *sizes, *vectors[1:]),
        statistics='data' if measured is not None and lacking else 'source')


def _of(stats: Statistics, key: str) -> dict[str, np.ndarray]:
    """Return the statistics of a key; the old layout writes it with underscores."""
    return stats.get(key) or stats.get(key.replace('.', '_'), {})


def _usable(stats: Mapping[str, np.ndarray]) -> bool:
    return bool(stats) and all(np.isfinite(value).all() for value in stats.values())


def _check_data(features: Mapping[str, Any], measured: Statistics, folder: Path) -> None:
    """Raise BundleError where the data lack what the policy takes or gives."""
    missing = [key for key in features if key not in measured]
    if missing:
        raise BundleError(f'{folder}: the policy has {missing[0]!r}, which the data lack: they '
                          f'have {", ".join(measured)}; give the data it was trained on')


def _map(key: str, feature: Mapping[str, Any], stats: Statistics, modes: Mapping[str, str],
         folder: Path) -> Affine:
    size = int(feature['shape'][0])
    return affine(_of(stats, key), modes.get(feature['type'], 'IDENTITY'), size,
                  f'{folder}, {key}')


def _statistics(folder: Path, tensors: Mapping[str, Tensor]) -> tuple[Statistics, dict[str, str]]:
    """Return the statistics by key and, where processors are there, their modes by type."""
    found = _buffers(tensors)
    modes: dict[str, str] = {}
    for name in PROCESSORS:
        if not (folder / name).is_file():
            continue
        for step in read_json(folder / name).get('steps', ()):
            if 'normalizer' not in str(step.get('registry_name')) or 'state_file' not in step:
                continue
            modes |= step.get('config', {}).get('norm_map', {})
            for flat, tensor in read_tensors(folder / step['state_file']).items():
                key, _, statistic = flat.rpartition('.')
                found.setdefault(key, {})[statistic] = tensor.numpy()
    return found, modes


def _buffers(tensors: Mapping[str, Tensor]) -> Statistics:
    """Return what the old layout keeps as `normalize_inputs.buffer_observation_state.min`."""
    found: Statistics = {}
    for name, tensor in tensors.items():
        head, _, rest = name.partition('.buffer_')
        if head in ('normalize_inputs', 'unnormalize_outputs') and rest:
            key, _, statistic = rest.rpartition('.')
            found.setdefault(key, {})[statistic] = tensor.numpy()
    return found


def _crop(config: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return the crop that our camera makes; what follows a resize is the network's own."""
    if config['resize_shape'] or not config['crop_shape']:
        return None
    rows, columns = config['crop_shape']
    return rows, columns


def _encoder(config: Mapping[str, Any], image: tuple[int, int]) -> dict[str, Any]:
    keypoints = config['spatial_softmax_num_keypoints']
    made = {'kind': 'resnet', 'keypoints': keypoints, 'latent_dim': keypoints * 2,
            'blocks': BACKBONES[config['vision_backbone']],
            'folded': not config['use_group_norm']}
    size, ratio = config['resize_shape'], config['crop_ratio']
    if size:
        crop = [int(side * ratio) for side in size]  # the same as without one, where it is 1
        made['resample'] = {'image': list(image), 'size': list(size), 'crop': crop}
    return made


def _denoiser(config: Mapping[str, Any]) -> dict[str, Any]:
    return {'kind': 'unet', 'down_dims': list(config['down_dims']),
            'kernel_size': config['kernel_size'], 'groups': config['n_groups'],
            'final_groups': 8,  # LeRobot's last block does not follow its n_groups
            'step_dim': config['diffusion_step_embed_dim'],
            'film_scale': config['use_film_scale_modulation']}


def _weights(config: Mapping[str, Any], tensors: Mapping[str, Tensor], cameras: list[str],
             folder: Path) -> dict[str, Tensor]:
    own = {name.removeprefix('diffusion.').replace('_orig_mod.', ''): tensor
           for name, tensor in tensors.items() if name.startswith('diffusion.')}
    made = renamed(own, 'unet.', 'denoiser.')
    separate = config['use_separate_rgb_encoder_per_camera']
    for i, key in enumerate(cameras):
        head = f'rgb_encoder.{i}.' if separate else 'rgb_encoder.'
        encoder = fold_norms(renamed(own, head, ''))
        if not encoder:
            raise BundleError(f'{folder}: model.safetensors has no encoder of {key!r}; it must be '
                              'the weights of the config.json beside it')
        made |= {f'encoders.{key}.{name}': tensor for name, tensor in encoder.items()}
    return made
