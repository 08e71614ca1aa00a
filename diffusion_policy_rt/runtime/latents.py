"""The latent cache: each frame is encoded once in its life, whatever `n_obs` is.

    plan at frame 3, n_obs 2:   encode 2, encode 3      cache {2, 3}
    plan at frame 4, n_obs 2:   hit 3,    encode 4      cache {2, 3, 4}
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import numpy as np

from diffusion_policy_rt.runtime.frame import Frame


class LatentCache:
    """Latents keyed by camera, stamp and arrival; the least recently used leave first.

    Stamps that are set back can come again, of another image.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f'capacity {capacity} must be at least 1')
        self.capacity = capacity
        """Latents kept, at least 1; a smaller value holds from the next frame encoded on."""
        self._latents: OrderedDict[tuple[str, int, int], np.ndarray] = OrderedDict()
        self.hits = 0
        self.misses = 0

    def __len__(self) -> int:
        return len(self._latents)

    def get(self, frame: Frame, encode: Callable[[Frame], np.ndarray]) -> np.ndarray:
        """Return the frame's latent, calling `encode` only for a frame not seen before."""
        key = (frame.camera, frame.stamp_ns, frame.arrival_ns)
        if key in self._latents:
            self.hits += 1
            self._latents.move_to_end(key)
            return self._latents[key]
        latent = encode(frame)
        latent.setflags(write=False)
        self.misses += 1
        self._latents[key] = latent
        while len(self._latents) > self.capacity:
            self._latents.popitem(last=False)
        return latent

    def clear(self) -> None:
        """Forget all latents; the counters stand."""
        self._latents.clear()
