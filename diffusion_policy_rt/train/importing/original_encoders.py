"""What a policy of the original code makes of its observation: encoders, crops and their order."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from diffusion_policy_rt.errors import BundleError
from diffusion_policy_rt.train.importing.original_config import last
from diffusion_policy_rt.train.importing.statistics import Affine
from diffusion_policy_rt.train.importing.weights import fold_norms, renamed

IMAGENET = Affine(np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225]))
"""Mean and deviation of torchvision's weights."""
BACKBONES = {'resnet18': [2, 2, 2, 2], 'resnet34': [3, 4, 6, 3]}
ROBOMIMIC = {'nets.0.nets.': 'backbone.', 'nets.1.': 'pool.', 'nets.3.': 'out.'}
"""robomimic's names of an encoder's parts, and ours."""
TORCHVISION = (('conv1.', '0.'), ('bn1.', '1.'),
               *((f'layer{i}.', f'{i + 3}.') for i in range(1, 5)))
"""torchvision's names of a ResNet's parts, and ours."""


class Vision(NamedTuple):
    """How a policy sees; `order` is that of its condition."""

    order: tuple[str, ...]
    encoder: dict[str, Any]
    latent_dim: int
    crop: tuple[int, int] | None
    weights: dict[str, Tensor]
    pixels: Affine
    """Follows the policy's own normalisation of the images."""


SAME = Affine(np.zeros(3), np.ones(3))


def hybrid(policy: Mapping[str, Any], tensors: Mapping[str, Tensor], path: Path) -> Vision:
    """Return robomimic's encoders: a ResNet, spatial softmax and a linear layer."""
    crop = policy.get('crop_shape', (76, 76))
    encoders = {key: _visual_core(tensors, key) for key in cameras(policy, path)}
    first = next(iter(encoders.values()))
    latent = len(first['out.weight'])
    config = {'kind': 'resnet', 'keypoints': len(first['pool.nets.weight']), 'latent_dim': latent,
              'folded': 'backbone.1.weight' not in first}
    return Vision(tuple(policy['shape_meta']['obs']), config, latent, _pair(crop, 'crop', path),
                  _named(encoders), SAME)


def _visual_core(tensors: Mapping[str, Tensor], key: str) -> dict[str, Tensor]:
    made: dict[str, Tensor] = {}
    for theirs, ours in ROBOMIMIC.items():
        made |= renamed(tensors, f'obs_encoder.obs_nets.{key}.{theirs}', ours)
    temperature = made.pop('pool.temperature', None)
    if temperature is not None:
        for kind in ('weight', 'bias'):
            made[f'pool.nets.{kind}'] = made[f'pool.nets.{kind}'] / temperature
    return fold_norms(made)


def image(policy: Mapping[str, Any], tensors: Mapping[str, Tensor], path: Path) -> Vision:
    """Return torchvision's encoders: a ResNet whose maps are averaged, one or one per camera."""
    how, sizes = policy['obs_encoder'], cameras(policy, path)
    name = how['rgb_model'].get('name')
    if last(how['_target_']) != 'MultiImageObsEncoder' or name not in BACKBONES:
        raise BundleError(f'{path}: the encoder {last(how["_target_"])} with {name!r} is not '
                          f'supported; MultiImageObsEncoder with {" or ".join(BACKBONES)} is')
    encoders = {key: _resnet(tensors, 'rgb' if how.get('share_rgb_model') else key)
                for key in sizes}
    # the original code takes no middle where it does not crop at random in training
    crop = _pair(how.get('crop_shape') if how.get('random_crop', True) else None, 'crop', path)
    folded = 'backbone.1.weight' not in next(iter(encoders.values()))
    config = {'kind': 'resnet_mean', 'blocks': BACKBONES[name], 'folded': folded}
    size = _pair(how.get('resize_shape'), 'resize', path)
    if size and set(sizes.values()) != {size}:
        config['resample'] = _resample(sizes, size, crop or size, path)
        crop = None
    return Vision(_sorted(policy), config, 512, crop, _named(encoders),
                  IMAGENET if how.get('imagenet_norm') else SAME)


def cameras(policy: Mapping[str, Any], path: Path) -> dict[str, tuple[int, int]]:
    """Return rows and columns of each camera's images."""
    features = policy['shape_meta']['obs']
    found = {key: tuple(f['shape']) for key, f in features.items() if f.get('type') == 'rgb'}
    odd = [key for key, shape in found.items() if len(shape) != 3 or shape[0] != 3]
    odd += [key for key, f in features.items() if f.get('type', 'low_dim') not in (
        'rgb', 'low_dim') or key not in found and len(f['shape']) != 1]
    if odd or not found:
        what = f'{odd[0]!r} {dict(features[odd[0]])}' if odd else 'without a camera'
        raise BundleError(f'{path}: an observation {what} is not supported; colour images [3, '
                          'height, width] and vectors are')
    return {key: (shape[1], shape[2]) for key, shape in found.items()}


def _sorted(policy: Mapping[str, Any]) -> tuple[str, ...]:
    features = policy['shape_meta']['obs']
    return tuple(sorted(features, key=lambda key: (features[key].get('type') != 'rgb', key)))


def _pair(shape: Any, what: str, path: Path) -> tuple[int, int] | None:
    if shape is None:
        return None
    if isinstance(shape, Mapping):
        raise BundleError(f'{path}: a {what}_shape per camera is not supported; one for all is')
    rows, columns = shape
    return int(rows), int(columns)


def _resample(sizes: Mapping[str, tuple[int, int]], size: tuple[int, int], crop: tuple[int, int],
              path: Path) -> dict[str, Any]:
    if len(set(sizes.values())) > 1:
        raise BundleError(f'{path}: a resize_shape for cameras of several sizes '
                          f'({", ".join(sizes)}) is not supported; one size is')
    # torchvision 0.13, which the original code asks for, resizes tensors without antialiasing
    return {'image': list(next(iter(sizes.values()))), 'size': list(size), 'crop': list(crop),
            'antialias': False}


def _resnet(tensors: Mapping[str, Tensor], key: str) -> dict[str, Tensor]:
    made: dict[str, Tensor] = {}
    for theirs, ours in TORCHVISION:
        made |= renamed(tensors, f'obs_encoder.key_model_map.{key}.{theirs}', f'backbone.{ours}')
    return fold_norms(made)


def _named(encoders: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {f'encoders.{key}.{name}': tensor
            for key, of in encoders.items() for name, tensor in of.items()}
