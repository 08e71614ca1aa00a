"""What the golden file does not store: weights, statistics and observations from frozen streams.

Runs in LeRobot's environment too, so it imports numpy alone.
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
    if name.endswith('running_var'):
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
