"""Encoding only what moved: images are compared by tiles with the one that latents were made of.

    image == held                       the latent stands, nothing is computed
    some tiles differ                   they are copied to `held`; layers are computed around them
    many do, or the age is up           encoded whole, at the price of the comparison alone

The latent is always that of `held`, bit for bit, and no pixel of `held` differs from the image by
more than the threshold. So noise and drift below it cost nothing, and never add up; a threshold of
zero changes nothing at all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from diffusion_policy_rt.errors import SpecError
from diffusion_policy_rt.runtime.maps import Maps, Rect
from diffusion_policy_rt.runtime.ports import Staged
from diffusion_policy_rt.spec import CameraSpec

TILE = 8
"""Rows and columns of a tile [px]."""
MOST = 0.3
"""Share of the image above which changed rectangles are not worth more than encoding it whole."""
LEAST = 160 * 160
"""Pixels of an image below which a call per layer costs more than encoding it whole."""
SOME = 8
"""Every so many rows are compared first: enough to tell that most of an image moved."""
ROUNDING = 1e-3
"""Of differences of whole numbers 0..255 that were scaled and back."""
ON_THE_ARM = ('wrist', 'hand', 'gripper', 'arm')
"""In the name of a camera that moves, so that all of its image does."""
COUNTS = ('unchanged', 'patched', 'whole', 'refreshed')
"""What images came to; those whose age was up are counted as `whole` too."""


@dataclass(frozen=True)
class TileRule:
    """What is asked of one camera."""

    tiles: bool = False
    threshold: float = 0.0
    """Largest difference of a pixel, 0..255, that counts as none."""
    max_age: float = 10.0
    """Age above which an image is encoded whole again [s]; 0 sets no limit."""

    def __post_init__(self) -> None:
        if not (0 <= self.threshold <= 255 and 0 <= self.max_age < np.inf):
            raise SpecError(f'threshold {self.threshold:g} must lie in 0..255 and max_age '
                            f'{self.max_age:g} must be finite and not negative')

    @classmethod
    def of(cls, camera: CameraSpec) -> TileRule:
        """Return the default: on, unless the camera's name says that it moves."""
        return cls(not any(word in camera.name.lower() for word in ON_THE_ARM))


@dataclass(frozen=True)
class _Held:
    image: np.ndarray
    maps: Maps | None
    """The layers' outputs; None until a part of the image changed."""
    latent: np.ndarray
    since_ns: int
    """Stamp of the image that was last encoded whole."""


class TiledEncoder:
    """One camera's encoder with its rule; used by one thread at a time."""

    def __init__(self, camera: CameraSpec, staged: Staged,
                 encode: Callable[[np.ndarray], np.ndarray], rule: TileRule,
                 least: int = LEAST) -> None:
        """Take what makes the latent [L] of a whole image.

        Images of fewer pixels than `least` are encoded whole, or not at all while they stand.
        """
        self.rule = rule
        self._staged, self._encode, self._least = staged, encode, least
        self._levels = 255 * np.asarray(camera.std, np.float32)[:, None, None]
        self._held: _Held | None = None
        self.counts = Counter(dict.fromkeys(COUNTS, 0))
        self.tiles = self.reused = 0
        """Tiles of all images, and those of them that were not computed."""
        self.drift = 0.0
        """Largest difference of the last image's pixels to those its latent is of, 0..255."""
        self.age_ns = 0
        """From the image that was last encoded whole to the last image [ns]."""

    def clear(self) -> None:
        """Forget the image; counts stand."""
        self._held = None

    @property
    def held(self) -> np.ndarray | None:
        """The image that the last latent is of, float32 [3, h, w]."""
        return None if self._held is None else self._held.image

    def encode(self, image: np.ndarray, stamp_ns: int) -> np.ndarray:
        """Return the latent [L] of an image, float32 [3, h, w], within the rule.

        The image is kept, so nobody may write to it afterwards.
        """
        # taken out: an engine that raises half-way must leave nothing half-way behind
        held, self._held, rule = self._held, None, self.rule
        limit = rule.max_age * 1e9
        if held is not None and limit and abs(stamp_ns - held.since_ns) > limit:
            self.counts['refreshed'] += 1
            held = None
        if held is None or held.image.shape != image.shape:
            held = self._whole(image, stamp_ns)
        else:
            held = self._changed(held, image, stamp_ns, rule.threshold)
        self.age_ns = stamp_ns - held.since_ns
        self._held = held
        return held.latent.copy()

    def _whole(self, image: np.ndarray, stamp_ns: int) -> _Held:
        self.counts['whole'] += 1
        self.tiles += tiles_of(image.shape)
        self.drift = 0.0
        return _Held(image, None, self._encode(image), stamp_ns)

    def _changed(self, held: _Held, image: np.ndarray, stamp_ns: int, threshold: float) -> _Held:
        most = MOST if image[0].size >= self._least else 0.0
        if self._moved(image[:, ::SOME], held.image[:, ::SOME], threshold) > most:
            return self._whole(image, stamp_ns)
        dirty = self._dirty(image, held.image, threshold)
        if not dirty.any():
            self._count('unchanged', dirty)
            return held
        rects = rectangles(dirty, image.shape)
        if sum(map(_area, rects)) > most * image[0].size:
            return self._whole(image, stamp_ns)
        maps = held.maps or Maps(self._staged, held.image)
        for top, left, bottom, right in rects:
            maps.pixels[:, top:bottom, left:right] = image[:, top:bottom, left:right]
        latent = maps.update(rects) if maps.filled else maps.fill()
        self._count('patched', dirty)
        return _Held(maps.pixels, maps, latent, held.since_ns)

    def _moved(self, image: np.ndarray, held: np.ndarray, threshold: float) -> float:
        """Return the share of values that differ by more than the threshold."""
        differs = image != held if not threshold else (
            np.abs(image - held) * self._levels > threshold + ROUNDING)
        return np.count_nonzero(differs) / differs.size

    def _dirty(self, image: np.ndarray, held: np.ndarray, threshold: float) -> np.ndarray:
        """Return which tiles hold a pixel that differs by more than the threshold."""
        if not threshold:
            return largest(image != held)
        difference = largest(np.abs(image - held) * self._levels)
        dirty = ~(difference <= threshold + ROUNDING)  # what is no number differs from everything
        self.drift = float(difference[~dirty].max(initial=0.0))
        return dirty

    def _count(self, kind: str, dirty: np.ndarray) -> None:
        self.counts[kind] += 1
        self.tiles += dirty.size
        self.reused += dirty.size - int(dirty.sum())


def tiles_of(shape: tuple[int, ...]) -> int:
    """Return how many tiles an image [.., h, w] has; those at its end may be smaller."""
    return -(-shape[-2] // TILE) * -(-shape[-1] // TILE)


def largest(difference: np.ndarray) -> np.ndarray:
    """Return the largest value [3, h, w] of each tile; True is above False."""
    rows, columns = (np.arange(0, size, TILE) for size in difference.shape[1:])
    return np.maximum.reduceat(
        np.maximum.reduceat(difference.max(0), rows, axis=0), columns, axis=1)


def rectangles(dirty: np.ndarray, shape: tuple[int, ...]) -> list[Rect]:
    """Return the rectangles of pixels around groups of tiles that touch."""
    count, _, boxes, _ = cv2.connectedComponentsWithStats(dirty.astype(np.uint8))
    return [(top * TILE, left * TILE, min(shape[-2], (top + rows) * TILE),
             min(shape[-1], (left + columns) * TILE))
            for left, top, columns, rows, _ in boxes[1:count].tolist()]


def _area(rect: Rect) -> int:
    return (rect[2] - rect[0]) * (rect[3] - rect[1])
