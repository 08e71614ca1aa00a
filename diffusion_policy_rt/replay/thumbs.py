"""A few pictures of each camera, and which of their tiles changed since the frame before."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from diffusion_policy_rt.errors import FrameError
from diffusion_policy_rt.runtime.frame import Frame

KEPT, TILES, CHANGED = 12, 8, 4.0
"""Pictures of each camera; tiles along each side; mean change of a dirty tile [grey levels]."""
SIDE = 128
"""Longer side of a picture [px]."""


@dataclass(frozen=True)
class Thumb:
    """One picture."""

    stamp_ns: int
    rgb: np.ndarray
    """uint8 [h, w, 3]."""
    dirty: np.ndarray
    """bool [TILES, TILES]: changed since the camera's frame before."""


class Thumbs:
    """Keeps at most `2 * KEPT` pictures of each camera, evenly spaced, however long a bag is."""

    def __init__(self) -> None:
        self.kept: dict[str, list[Thumb]] = {}
        self._every: dict[str, int] = {}
        self._seen: dict[str, int] = {}
        self._last: dict[str, Frame] = {}

    def note(self, frame: Frame) -> None:
        """Take in a frame, in order of arrival; few are decoded."""
        name, last = frame.camera, self._last.get(frame.camera)
        count = self._seen.get(name, 0)
        self._seen[name], self._last[name] = count + 1, frame
        every, kept = self._every.setdefault(name, 1), self.kept.setdefault(name, [])
        if count % every:
            return
        try:
            kept.append(thumb(frame, last))
        except FrameError:
            return  # a plan that needs it tells so
        if len(kept) > 2 * KEPT:
            del kept[1::2]
            self._every[name] *= 2


def thumb(frame: Frame, last: Frame | None) -> Thumb:
    """Return a small picture of the frame, and its tiles that differ from `last`'s."""
    rgb = frame.decode()
    scale = SIDE / max(rgb.shape[:2])
    size = max(1, round(rgb.shape[1] * scale)), max(1, round(rgb.shape[0] * scale))
    small = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    if last is None:
        return Thumb(frame.stamp_ns, small, np.ones((TILES, TILES), bool))
    before = cv2.resize(last.decode(), size, interpolation=cv2.INTER_AREA)
    change = np.abs(small.astype(np.float32) - before).mean(-1)
    dirty = cv2.resize(change, (TILES, TILES), interpolation=cv2.INTER_AREA) > CHANGED
    return Thumb(frame.stamp_ns, small, dirty)
