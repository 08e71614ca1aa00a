"""The configuration of a LeRobot diffusion policy, of any version: what it takes, and how."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusion_policy_rt.errors import BundleError
from diffusion_policy_rt.train.importing.files import need, read_json
from diffusion_policy_rt.train.importing.lerobot_types import FIRST, TODAYS, check_types
from diffusion_policy_rt.train.importing.sampling import noise_levels
from diffusion_policy_rt.train.importing.source import Sampling

STATE, ENVIRONMENT, ACTION = 'observation.state', 'observation.environment_state', 'action'
BACKBONES = {'resnet18': [2, 2, 2, 2], 'resnet34': [3, 4, 6, 3]}
DEFAULTS = {
    'vision_backbone': 'resnet18', 'crop_shape': None, 'resize_shape': None, 'crop_ratio': 1.0,
    'use_group_norm': True, 'spatial_softmax_num_keypoints': 32,
    'use_separate_rgb_encoder_per_camera': False, 'down_dims': [512, 1024, 2048],
    'kernel_size': 5, 'n_groups': 8, 'diffusion_step_embed_dim': 128,
    'use_film_scale_modulation': True, 'noise_scheduler_type': 'DDPM',
    'num_train_timesteps': 100, 'beta_schedule': 'squaredcos_cap_v2', 'beta_start': 1e-4,
    'beta_end': 0.02, 'prediction_type': 'epsilon', 'clip_sample': True,
    'clip_sample_range': 1.0, 'num_inference_steps': None}
"""What LeRobot takes where a configuration says nothing."""


def read_config(path: Path) -> dict[str, Any]:
    """Return the configuration with LeRobot's defaults; features and modes in today's form."""
    data = read_json(path)
    kind = data.get('type', 'diffusion' if 'input_shapes' in data else None)
    if kind != 'diffusion':
        raise BundleError(f'{path}: a policy of type {kind!r} cannot be imported; only LeRobot\'s '
                          '\'diffusion\' and the original Diffusion Policy can')
    if 'input_shapes' in data:
        data = _modernised(data, path)
    need(data, ('input_features', 'output_features', 'normalization_mapping', 'n_obs_steps',
                'horizon', 'n_action_steps'), path)
    config = {**DEFAULTS, **data}
    check_types(config, TODAYS, path)
    _check(config, path)
    return config


def _modernised(data: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return the first version's configuration, which had one mode per key, in today's form."""
    need(data, ('output_shapes', 'input_normalization_modes', 'output_normalization_modes'), path)
    check_types(data, FIRST, path)
    modes = {**data['input_normalization_modes'], **data['output_normalization_modes']}
    inputs = {key: {'type': kind_of(key), 'shape': shape}
              for key, shape in data['input_shapes'].items()}
    return {**data, 'input_features': inputs,
            'output_features': {key: {'type': 'ACTION', 'shape': shape}
                                for key, shape in data['output_shapes'].items()},
            'normalization_mapping': {kind_of(key): str(mode).upper()
                                      for key, mode in modes.items()}}


def kind_of(key: str) -> str:
    """Return LeRobot's type of a feature of this name."""
    named = {STATE: 'STATE', ENVIRONMENT: 'ENV', ACTION: 'ACTION'}
    return named.get(key, 'VISUAL' if key.startswith('observation.image') else '')


def _check(config: Mapping[str, Any], path: Path) -> None:
    inputs, outputs = config['input_features'], config['output_features']
    if ACTION not in outputs or STATE not in inputs:
        raise BundleError(f'{path}: the policy needs {STATE!r} and {ACTION!r}; it has '
                          f'{[*inputs, *outputs]}')
    odd = [key for key, feature in inputs.items()
           if feature['type'] not in ('VISUAL', 'STATE', 'ENV')]
    if odd:
        raise BundleError(f'{path}: input {odd[0]!r} of type {inputs[odd[0]]["type"]!r} is not '
                          'supported; images, state and environment state are')
    if config['vision_backbone'] not in BACKBONES:
        raise BundleError(f'{path}: the encoder {config["vision_backbone"]!r} is not supported; '
                          f'supported: {", ".join(BACKBONES)}')


def images(config: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Return rows and columns of each image, in LeRobot's order."""
    return {key: (feature['shape'][1], feature['shape'][2])
            for key, feature in config['input_features'].items() if feature['type'] == 'VISUAL'}


def sampling(config: Mapping[str, Any], path: Path) -> Sampling:
    """Return how the policy samples; BundleError for what we do not know."""
    predicts = {'epsilon': 'noise', 'sample': 'sample'}.get(config['prediction_type'])
    kind, total = config['noise_scheduler_type'], config['num_train_timesteps']
    if predicts is None or kind not in ('DDPM', 'DDIM'):
        raise BundleError(f'{path}: {kind} with prediction_type {config["prediction_type"]!r} is '
                          'not supported; DDPM and DDIM with epsilon or sample are')
    steps = config['num_inference_steps'] or total
    if steps > total:
        raise BundleError(f'{path}: num_inference_steps {steps} is above num_train_timesteps '
                          f'{total}; such a policy returns noise: set it to 1..{total}')
    levels = noise_levels(config['beta_schedule'], total, config['beta_start'],
                          config['beta_end'], str(path))
    clip = float(config['clip_sample_range']) if config['clip_sample'] else None
    return Sampling(levels, predicts, steps, kind == 'DDPM', clip)
