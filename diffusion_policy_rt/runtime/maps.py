"""What an encoder's layers made of one image, kept so that a part of it can be made anew.

A rectangle of changed pixels grows on its way through the layers, by each one's neighbourhood.
Only what it grows to is computed; the rest of every layer's output stands as it was:

    pixels 16 x 16  ->  10 x 10 of 48 x 48  ->  6 x 6 of 24 x 24  ->  8 x 8  ->  12 x 12  -> ..
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from diffusion_policy_rt.runtime.ports import Stage, Staged

Rect = tuple[int, int, int, int]
"""Top, left, bottom, right; the last two are the first outside."""


def grown(stage: Stage, rect: Rect, shape: tuple[int, ...]) -> Rect:
    """Return which outputs of a stage, of `shape` [.., h, w], depend on inputs in `rect`."""
    top, left, bottom, right = rect
    reach, stride, margin = stage.extent - 1 - stage.margin, stage.stride, stage.margin
    return (max(0, -((reach - top) // stride)), max(0, -((reach - left) // stride)),
            min(shape[-2], (bottom - 1 + margin) // stride + 1),
            min(shape[-1], (right - 1 + margin) // stride + 1))


def merged(rects: Iterable[Rect]) -> list[Rect]:
    """Return rectangles that cover the same and do not overlap."""
    apart: list[Rect] = []
    for rect in rects:
        while over := [other for other in apart if _overlap(rect, other)]:
            apart = [other for other in apart if other not in over]
            rect = _hull([rect, *over])
        apart.append(rect)
    return apart


def _overlap(a: Rect, b: Rect) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _hull(rects: list[Rect]) -> Rect:
    tops, lefts, bottoms, rights = zip(*rects)
    return min(tops), min(lefts), max(bottoms), max(rights)


class Maps:
    """The input of each stage, with its margins, and the last one's output."""

    def __init__(self, staged: Staged, image: np.ndarray) -> None:
        """Hold `image`, float32 [3, h, w]; nothing is computed yet."""
        self._staged, self._inputs = staged, [_framed(image, staged.stages[0].margin)]

    @property
    def pixels(self) -> np.ndarray:
        """The image that all of this is of, float32 [3, h, w]; to be written before `update`."""
        return self._inner(0)

    def _inner(self, index: int) -> np.ndarray:
        whole, stages = self._inputs[index], self._staged.stages
        margin = stages[index].margin if index < len(stages) else 0
        return whole[:, margin:whole.shape[1] - margin, margin:whole.shape[2] - margin]

    @property
    def filled(self) -> bool:
        """Whether there is something to be updated."""
        return len(self._inputs) > 1

    def fill(self) -> np.ndarray:
        """Compute every layer of `pixels`; return the latent [L]."""
        del self._inputs[1:]
        margins = [stage.margin for stage in self._staged.stages[1:]] + [0]
        for stage, margin in zip(self._staged.stages, margins):
            self._inputs.append(_framed(stage.run(self._inputs[-1]), margin))
        return self._staged.head(self._inputs[-1])

    def update(self, rects: Iterable[Rect]) -> np.ndarray:
        """Compute anew what depends on the pixels in `rects`; return the latent [L]."""
        rects = list(rects)
        for index, stage in enumerate(self._staged.stages):
            whole, made = self._inputs[index], self._inner(index + 1)
            rects = merged(grown(stage, rect, made.shape) for rect in rects)
            for top, left, bottom, right in rects:
                made[:, top:bottom, left:right] = stage.run(np.ascontiguousarray(
                    whole[:, top * stage.stride:(bottom - 1) * stage.stride + stage.extent,
                          left * stage.stride:(right - 1) * stage.stride + stage.extent]))
        return self._staged.head(self._inputs[-1])


def _framed(inner: np.ndarray, margin: int) -> np.ndarray:
    """Copy [C, h, w] into the middle of zeros."""
    channels, rows, columns = inner.shape
    made = np.zeros((channels, rows + 2 * margin, columns + 2 * margin), np.float32)
    made[:, margin:margin + rows, margin:margin + columns] = inner
    return made
