"""Of what type each value of a LeRobot configuration must be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from diffusion_policy_rt.errors import BundleError

MOST = 2**20
"""No width, size or number of steps is above it."""


class Kind(NamedTuple):
    """What a value must be: in words, and as a test."""

    words: str
    holds: Callable[[Any], bool]


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MOST


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < MOST


def _are_counts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_count, value))


def _is_size(value: Any) -> bool:
    return _are_counts(value) and len(value) == 2


def _are_features(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_feature, value.values()))


def _is_feature(value: Any) -> bool:
    if not (isinstance(value, dict) and isinstance(value.get('type'), str)
            and _are_counts(value.get('shape'))):
        return False
    shape = value['shape']
    return len(shape) == 3 and shape[0] == 3 if value['type'] == 'VISUAL' else len(shape) == 1


def _or_none(kind: Kind) -> Kind:
    return Kind(f'{kind.words}, or null', lambda value: value is None or kind.holds(value))


COUNT = Kind(f'a whole number from 1 to {MOST}', _is_count)
COUNTS = Kind('a list of whole numbers above zero', _are_counts)
SIZE = Kind('[rows, columns]', _is_size)
NUMBER = Kind('a number above zero', _is_number)
SHARE = Kind('a number above 0 and at most 1', lambda value: _is_number(value) and value <= 1)
FLAG = Kind('true or false', lambda value: isinstance(value, bool))
WORD = Kind('a word', lambda value: isinstance(value, str))
WORDS = Kind('an object of words', lambda value: isinstance(value, dict) and all(
    isinstance(word, str) for word in value.values()))
FEATURES = Kind('an object of features, each with a type and a shape: [3, rows, columns] of an '
                'image, [values] of all else', _are_features)

TODAYS: Mapping[str, Kind] = {
    'input_features': FEATURES, 'output_features': FEATURES, 'normalization_mapping': WORDS,
    'n_obs_steps': COUNT, 'horizon': COUNT, 'n_action_steps': COUNT,
    'vision_backbone': WORD, 'crop_shape': _or_none(SIZE), 'resize_shape': _or_none(SIZE),
    'crop_ratio': SHARE, 'use_group_norm': FLAG, 'spatial_softmax_num_keypoints': COUNT,
    'use_separate_rgb_encoder_per_camera': FLAG, 'down_dims': COUNTS, 'kernel_size': COUNT,
    'n_groups': COUNT, 'diffusion_step_embed_dim': COUNT, 'use_film_scale_modulation': FLAG,
    'noise_scheduler_type': WORD, 'num_train_timesteps': COUNT, 'beta_schedule': WORD,
    'beta_start': SHARE, 'beta_end': SHARE, 'prediction_type': WORD, 'clip_sample': FLAG,
    'clip_sample_range': NUMBER, 'num_inference_steps': _or_none(COUNT)}
"""Keys of today's form."""
FIRST: Mapping[str, Kind] = {
    **{f'{way}_shapes': Kind('an object of shapes', lambda value: isinstance(value, dict))
       for way in ('input', 'output')},
    **{f'{way}_normalization_modes': WORDS for way in ('input', 'output')}}
"""Keys that the first version had in their place."""


def check_types(data: Mapping[str, Any], kinds: Mapping[str, Kind], path: Path) -> None:
    """Raise BundleError where a value is of another type."""
    for name, kind in kinds.items():
        if not kind.holds(data[name]):
            raise BundleError(f'{path}: {name} must be {kind.words}; found {data[name]!r:.80}; '
                              'copy the checkpoint again')
