"""Encoding only what moved: images are compared by tiles with the one that latents were made of.

    image == held                       the latent stands, nothing is computed
    some tiles differ                   what changed is copied to `held`; stages of layers are
                                        computed around it
    many do, or the age is up           encoded whole, at the price of the comparison alone

Pixels are compared as the camera gave them, uint8, and only what changed is scaled. The latent is
always that of `held`, bit for bit, and no pixel of `held` differs from the image by more than the
threshold. So noise and drift below it cost nothing, and never add up; a threshold of zero changes
nothing at all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from diffusion_policy_rt.errors import SpecError
from diffusion_policy_rt.runtime.frame import scaled
from diffusion_policy_rt.runtime.maps import Maps
from diffusion_policy_rt.runtime.ports import Staged
from diffusion_policy_rt.runtime.receptive import Rect
from diffusion_policy_rt.spec import CameraSpec

TILE = 8
"""Rows and columns of a tile [px]."""
MOST = 0.3
"""Share of the image above which changed rectangles are not worth more than encoding it whole."""
LEAST = 160 * 160
"""Pixels of an image below which a call per stage costs more than encoding it whole."""
DENSE = 1.5
"""Up to so many times the tiles that changed, one rectangle costs less than a few."""
SOME = 16
"""Every so many rows are compared first where the last image was encoded whole: enough to tell
that most of this one moved, too."""
MOVING, PASSED_OVER = 4, 6
"""After so many images on end that were compared in vain, so many are encoded without a look."""
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
        if not 0 <= self.threshold <= 255:
            raise SpecError(f'threshold {self.threshold:g} must lie in 0..255')
        if not 0 <= self.max_age < np.inf:
            raise SpecError(f'max_age {self.max_age:g} must be finite and not negative')

    @classmethod
    def of(cls, camera: CameraSpec) -> TileRule:
        """Return the default: on, unless the camera's name says that it moves."""
        return cls(not any(word in camera.name.lower() for word in ON_THE_ARM))


@dataclass(frozen=True)
class _Held:
    image: np.ndarray
    """Our own copy, uint8 [h, w, 3]."""
    maps: Maps | None
    """The stages' outputs; None until a part of the image changed."""
    latent: np.ndarray
    since_ns: int
    """Stamp of the image that was last encoded whole."""


class TiledEncoder:
    """One camera's encoder with its rule; used by one thread at a time."""

    def __init__(self, camera: CameraSpec, staged: Staged,
                 encode: Callable[[np.ndarray], np.ndarray], rule: TileRule,
                 least: int = LEAST) -> None:
        """Take what makes the latent [L] of a whole image, float32 [3, h, w].

        Images of fewer pixels than `least` are encoded whole, or not at all while they stand.
        """
        self.rule = rule
        self._camera, self._staged, self._encode, self._least = camera, staged, encode, least
        self._held: _Held | None = None
        self._in_vain = self._to_pass_over = 0
        self.counts = Counter(dict.fromkeys(COUNTS, 0))
        self.tiles = self.reused = 0
        """Tiles of all images, and those of them that were not computed."""
        self.drift = 0.0
        """Largest difference of the last image's pixels to those its latent is of, 0..255."""
        self.age_ns = 0
        """From the image that was last encoded whole to the last image [ns]."""

    def clear(self) -> None:
        """Forget the image; counts stand."""
        self._held, self._in_vain, self._to_pass_over = None, 0, 0

    @property
    def held(self) -> np.ndarray | None:
        """The image that the last latent is of, uint8 [h, w, 3]."""
        return None if self._held is None else self._held.image

    def encode(self, image: np.ndarray, stamp_ns: int) -> np.ndarray:
        """Return the latent [L] of an image, uint8 [h, w, 3], within the rule."""
        if self._to_pass_over:
            return self._passed_over(image)
        # taken out: an engine that raises half-way must leave nothing half-way behind
        held, self._held, rule = self._held, None, self.rule
        limit = rule.max_age * 1e9
        if held is not None and limit and abs(stamp_ns - held.since_ns) > limit:
            self.counts['refreshed'] += 1
            held = None
        if held is None or held.image.shape != image.shape:
            held = self._whole(image, stamp_ns, np.empty(image.shape, np.uint8))
        else:
            # differences are whole numbers, and compare with one ten times as fast
            held = self._changed(held, image, stamp_ns, int(rule.threshold))
        self.age_ns = stamp_ns - held.since_ns
        self._held = held
        return held.latent.copy()

    def _passed_over(self, image: np.ndarray) -> np.ndarray:
        """Return the latent of an image that there is no point in holding."""
        self._to_pass_over -= 1
        self._held, self.age_ns = None, 0
        return self._anew(image)

    def _anew(self, image: np.ndarray) -> np.ndarray:
        self.counts['whole'] += 1
        self.tiles += tiles_of(image.shape)
        self.drift = 0.0
        return self._encode(scaled(image, self._camera))

    def _whole(self, image: np.ndarray, stamp_ns: int, into: np.ndarray) -> _Held:
        latent = self._anew(image)
        into[:] = image
        return _Held(into, None, latent, stamp_ns)

    def _compared_in_vain(self, held: _Held, image: np.ndarray, stamp_ns: int) -> _Held:
        self._in_vain += 1
        if self._in_vain >= MOVING:
            self._to_pass_over = PASSED_OVER
        return self._whole(image, stamp_ns, held.image)

    def _changed(self, held: _Held, image: np.ndarray, stamp_ns: int, threshold: int) -> _Held:
        rows, columns = image.shape[:2]
        most = MOST if rows * columns >= self._least else 0.0
        if held.maps is None and _moved(image[::SOME], held.image[::SOME], threshold) > most:
            return self._compared_in_vain(held, image, stamp_ns)
        far = cv2.absdiff(image, held.image)
        furthest = by_tile(far)
        dirty = furthest > threshold
        count = int(np.count_nonzero(dirty))
        self.drift = float(furthest[~dirty].max(initial=0)) if threshold else 0.0
        if not count:
            self._count('unchanged', dirty.size, 0)
            return held
        rects = [shrunk(rect, far, threshold) for rect in rectangles(dirty, (rows, columns))]
        if sum(map(_area, rects)) > most * rows * columns:
            return self._compared_in_vain(held, image, stamp_ns)
        latent, maps = self._patched(held, image, rects)
        self._count('patched', dirty.size, count)
        return _Held(held.image, maps, latent, held.since_ns)

    def _patched(self, held: _Held, image: np.ndarray,
                 rects: list[Rect]) -> tuple[np.ndarray, Maps]:
        """Copy the rectangles of the image to what is held; return the latent and the maps."""
        for top, left, bottom, right in rects:
            held.image[top:bottom, left:right] = image[top:bottom, left:right]
        if held.maps is not None:
            return held.maps.update(rects), held.maps
        maps = Maps(self._staged, held.image.shape[:2], lambda rect: scaled(
            held.image[rect[0]:rect[2], rect[1]:rect[3]], self._camera))
        return maps.fill(), maps

    def _count(self, kind: str, tiles: int, dirty: int) -> None:
        self.counts[kind] += 1
        self._in_vain = 0
        self.tiles += tiles
        self.reused += tiles - dirty


def tiles_of(shape: tuple[int, ...]) -> int:
    """Return how many tiles an image [h, w, 3] has; those at its end may be smaller."""
    return -(-shape[0] // TILE) * -(-shape[1] // TILE)


def by_tile(far: np.ndarray) -> np.ndarray:
    """Return the largest difference, uint8 [h, w, 3], of each tile."""
    rows, columns = (-(-size // TILE) for size in far.shape[:2])
    lower, right = rows * TILE - far.shape[0], columns * TILE - far.shape[1]
    if lower or right:
        far = cv2.copyMakeBorder(far, 0, lower, 0, right, cv2.BORDER_CONSTANT)
    lines = far.reshape(rows, TILE, columns * TILE * 3).max(1)
    return cv2.reduce(lines.reshape(-1, TILE * 3), 1, cv2.REDUCE_MAX).reshape(rows, columns)


def rectangles(dirty: np.ndarray, shape: tuple[int, ...]) -> list[Rect]:
    """Return rectangles of pixels around all tiles that are dirty, bool [rows, columns].

    One where that holds little else, or one around each group of tiles that touch.
    """
    marks = dirty.view(np.uint8)
    groups = [cv2.boundingRect(marks)]
    if not 0 < groups[0][2] * groups[0][3] <= DENSE * np.count_nonzero(dirty):
        found, _ = cv2.findContours(marks, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        groups = list(map(cv2.boundingRect, found))
    return [(top * TILE, left * TILE, min(shape[0], (top + rows) * TILE),
             min(shape[1], (left + columns) * TILE)) for left, top, columns, rows in groups]


def shrunk(rect: Rect, far: np.ndarray, threshold: int) -> Rect:
    """Return the smallest rectangle around what differs, `far` [h, w, 3], by more in `rect`."""
    top, left, bottom, right = rect
    part = far[top:bottom, left:right]
    changed = (part > threshold).view(np.uint8) if threshold else part
    x, y, columns, rows = cv2.boundingRect(changed.reshape(bottom - top, -1))
    return top + y, left + x // 3, top + y + rows, left + -(-(x + columns) // 3)


def _moved(image: np.ndarray, held: np.ndarray, threshold: int) -> float:
    """Return the share of values that differ by more than the threshold."""
    far = cv2.absdiff(image, held)
    return float(np.count_nonzero(far > threshold) / far.size)


def _area(rect: Rect) -> int:
    return (rect[2] - rect[0]) * (rect[3] - rect[1])
