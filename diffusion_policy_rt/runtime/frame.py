"""A camera frame, and the one way in which pixels become the network's input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from diffusion_policy_rt.errors import FrameError
from diffusion_policy_rt.spec import CameraSpec


@dataclass(frozen=True)
class Frame:
    """One image of one camera. `decode` is called once, when the frame is first needed."""

    camera: str
    stamp_ns: int
    """Time of capture on the timeline of the ticks [ns]."""
    arrival_ns: int
    """Time at which it reached us, on the same timeline [ns]."""
    decode: Callable[[], np.ndarray]
    """Returns uint8 [H, W, 3] RGB; may raise FrameError."""

    @classmethod
    def of(cls, camera: str, stamp_ns: int, rgb: np.ndarray) -> Frame:
        """Make a frame of pixels at hand, uint8 [H, W, 3] RGB."""
        return cls(camera, stamp_ns, stamp_ns, lambda: rgb)


def fit(rgb: np.ndarray, camera: CameraSpec) -> np.ndarray:
    """Cut the middle of the camera's aspect ratio and shrink it to height x width.

    Raises FrameError when the image is no uint8 [H, W, 3] or would have to be enlarged: that would
    invent detail the policy was trained on.
    """
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        raise FrameError(f'camera {camera.name}: expected uint8 [H, W, 3], found {rgb.dtype} '
                         f'{list(rgb.shape)}')
    rows, columns = rgb.shape[:2]
    height, width = camera.height, camera.width
    if (rows, columns) == (height, width):
        return rgb
    if rows < height or columns < width:
        raise FrameError(f'camera {camera.name}: a {columns}x{rows} image is smaller than the '
                         f'{width}x{height} that the policy takes; raise the camera\'s resolution')
    scale = min(rows / height, columns / width)
    cut_rows, cut_columns = round(height * scale), round(width * scale)
    top, left = (rows - cut_rows) // 2, (columns - cut_columns) // 2
    middle = rgb[top:top + cut_rows, left:left + cut_columns]
    return cv2.resize(middle, (width, height), interpolation=cv2.INTER_AREA)


def window(rgb: np.ndarray, camera: CameraSpec, shift: tuple[int, int] = (0, 0)) -> np.ndarray:
    """Return the pixels that the network sees, uint8 [h, w, 3]: resized and cut, not scaled.

    They may be those of `rgb` itself. `shift` moves the crop window (rows, columns) [px]; it is
    training's augmentation. Where the window leaves the image the border pixel is repeated.
    """
    image = fit(rgb, camera)
    rows, columns = camera.input_size
    top, left = (corner + by for corner, by in zip(camera.crop_corner, shift))
    if 0 <= top <= camera.height - rows and 0 <= left <= camera.width - columns:
        return image[top:top + rows, left:left + columns]
    row_index = np.clip(np.arange(top, top + rows), 0, camera.height - 1)
    column_index = np.clip(np.arange(left, left + columns), 0, camera.width - 1)
    return image.take(row_index, 0).take(column_index, 1)


def scaled(pixels: np.ndarray, camera: CameraSpec) -> np.ndarray:
    """Scale uint8 [h, w, 3], any part of a `window`, to float32 [3, h, w]."""
    factor, offset = _scale(camera.mean, camera.std)
    made = np.empty((3, *pixels.shape[:2]), np.float32)
    # into the planes at once: interleaved arithmetic and a copy cost ten times as much
    np.multiply(pixels.transpose(2, 0, 1), factor, out=made)
    made -= offset
    return made


@lru_cache(64)
def _scale(mean: tuple[float, ...], std: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return what pixels are multiplied with, and what is subtracted then, each [3, 1, 1]."""
    deviation = np.asarray(std, np.float32)[:, None, None]
    return 1 / (255 * deviation), np.asarray(mean, np.float32)[:, None, None] / deviation


def to_input(rgb: np.ndarray, camera: CameraSpec, shift: tuple[int, int] = (0, 0)) -> np.ndarray:
    """Resize, crop and scale uint8 [H, W, 3] RGB to float32 [3, h, w]; `shift` as `window` has."""
    return scaled(window(rgb, camera, shift), camera)
