"""What the golden file does not store: weights, statistics and observations from frozen streams.

Runs in the environments of the other codes too, so it imports numpy alone.
"""

import zlib

import numpy as np


def stream(name):
    """Return the generator of this name, whose stream numpy has promised never to change."""
    return np.random.RandomState(zlib.crc32(name.encode()))


def weight(name, shape):
    """Return a tensor, float32 of this shape, in the range that a trained one has."""
    rng = stream(name)
    noise = rng.standard_normal(shape)
    if name.endswith(('running_var', 'temperature')):
        return (1 + 0.2 * np.abs(noise)).astype(np.float32)
    if len(shape) < 2:
        return (name.endswith('weight') + 0.1 * noise).astype(np.float32)
    return (noise / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


def statistics(features):
    """Return {key: {statistic: float32}} of features {key: {'type', 'shape'}}."""
    made = {}
    for key, feature in features.items():
        rng, visual = stream(key), feature['type'] == 'VISUAL'
        size = (feature['shape'][0], 1, 1) if visual else tuple(feature['shape'])
        low = rng.uniform(0, 0.1, size) if visual else rng.uniform(-3, 0, size)
        high = low + rng.uniform(0.5, 0.9, size)
        made[key] = {name: np.asarray(value, np.float32) for name, value in (
            ('min', low), ('max', high), ('mean', (low + high) / 2), ('std', (high - low) / 3))}
    return made


def is_drawn(name):
    """Return whether a name in the original code's state is a weight, or follows from others."""
    return not (name.startswith('normalizer.') or name.endswith(
        ('_dummy_variable', 'num_batches_tracked', 'mask', '.pos_x', '.pos_y')))


def original_features(policy):
    """Return the features of an original configuration's inputs and its action, by key."""
    if 'shape_meta' not in policy:
        return {'obs': {'type': 'STATE', 'shape': [policy['obs_dim']]},
                'action': {'type': 'ACTION', 'shape': [policy['action_dim']]}}
    return {key: {'type': 'VISUAL' if of.get('type') == 'rgb' else 'STATE', 'shape': of['shape']}
            for key, of in {**policy['shape_meta']['obs'],
                            'action': policy['shape_meta']['action']}.items()}


def normalizer(features):
    """Return the original code's normalisation, {name in its state: float32}.

    Images go from [0, 1] to [-1, 1], as its data sets have it, and vectors from their range.
    """
    made = {}
    for key, stats in statistics(features).items():
        low, high = ((np.float32([0]), np.float32([1])) if features[key]['type'] == 'VISUAL'
                     else (stats['min'], stats['max']))
        scale = 2 / (high - low)
        head = f'params_dict.{key}.'
        made |= {head + 'scale': scale, head + 'offset': -1 - scale * low,
                 head + 'input_stats.min': low, head + 'input_stats.max': high}
    return made


def observation(features, n_obs):
    """Return {key: [n_obs, ...]}: images uint8 [n_obs, H, W, 3], vectors float32."""
    made = {}
    for key, feature in features.items():
        rng, shape = stream(f'observed {key}'), feature['shape']
        if feature['type'] == 'VISUAL':
            made[key] = rng.randint(0, 256, (n_obs, *shape[1:], shape[0])).astype(np.uint8)
        else:
            made[key] = rng.uniform(-2, 0.5, (n_obs, *shape)).astype(np.float32)
    return made


class Fresh:
    """The noise of a sampler: each call gives the next array."""

    def __init__(self):
        self._rng = stream('fresh')

    def standard_normal(self, shape):
        """Return standard normal float32 of this shape."""
        return self._rng.standard_normal(shape).astype(np.float32)


def noise(shape):
    """Return the noise that a sampler starts from, float32."""
    return stream('noise').standard_normal(shape).astype(np.float32)
