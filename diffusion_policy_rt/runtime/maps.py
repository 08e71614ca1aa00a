"""What an encoder's stages made of one image, kept so that a part of it can be made anew.

A rectangle of changed pixels grows on its way through the layers, by each one's receptive field.
Only what it grows to is computed; the rest of every stage's output stands as it was:

    pixels 16 x 16  ->  8 x 8 of 24 x 24  ->  12 x 12  ->  20 x 20
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from diffusion_policy_rt.runtime.ports import Staged
from diffusion_policy_rt.runtime.receptive import Rect, grown, merged, patch, widened


class Maps:
    """The output of each stage for one image."""

    def __init__(self, staged: Staged, shape: tuple[int, int],
                 pixels: Callable[[Rect], np.ndarray]) -> None:
        """Take an image of `shape` [h, w]; nothing is computed yet.

        `pixels` gives a rectangle of it as it is now, float32 [3, h', w'].
        """
        self._staged, self._pixels = staged, pixels
        self._made: list[np.ndarray] = []
        self._shapes = [shape]
        for stage in staged.stages:
            self._shapes.append(stage.outputs(self._shapes[-1]))

    def fill(self) -> np.ndarray:
        """Compute all of the image; return the latent [L]."""
        self._made.clear()
        for index, shape in enumerate(self._shapes[1:]):
            self._made.append(self._computed(index, (0, 0, *shape)).copy())
        return self._staged.head(self._made[-1])

    def update(self, rects: Iterable[Rect]) -> np.ndarray:
        """Compute anew what depends on the pixels in `rects`; return the latent [L]."""
        for index, (stage, made) in enumerate(zip(self._staged.stages, self._made)):
            rects = merged(grown(stage.field, rect, made.shape) for rect in rects)
            for rect in rects:
                top, left, bottom, right = rect
                made[:, top:bottom, left:right] = self._computed(index, rect)
        return self._staged.head(self._made[-1])

    def _computed(self, index: int, rect: Rect) -> np.ndarray:
        """Run a stage; return its outputs in a rectangle."""
        stage, shape = self._staged.stages[index], self._shapes[index + 1]
        wide = widened(rect, stage.spoiled, shape)
        made = stage.run(self._patch(index, patch(
            stage.fields[0], stage.field.stride, wide, self._shapes[index])))
        top, left = rect[0] - wide[0], rect[1] - wide[1]
        return made[:, top:top + rect[2] - rect[0], left:left + rect[3] - rect[1]]

    def _patch(self, index: int, rect: Rect) -> np.ndarray:
        """Return inputs of a stage, with zeros where the rectangle reaches out of the image."""
        inner = widened(rect, (0, 0), self._shapes[index])
        part = self._pixels(inner) if index == 0 else self._made[index - 1][
            :, inner[0]:inner[2], inner[1]:inner[3]]
        if inner == rect:
            return np.ascontiguousarray(part)
        top, left = inner[0] - rect[0], inner[1] - rect[1]
        framed = np.zeros((len(part), rect[2] - rect[0], rect[3] - rect[1]), np.float32)
        framed[:, top:top + part.shape[1], left:left + part.shape[2]] = part
        return framed
