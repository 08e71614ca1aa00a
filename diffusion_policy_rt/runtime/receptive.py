"""Which inputs the outputs of layers depend on: geometry alone, in rows and in columns alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

Rect = tuple[int, int, int, int]
"""Top, left, bottom, right; the last two are the first outside."""


class ReceptiveField(NamedTuple):
    """What a layer sees: output `o` is a function of inputs `o * stride ... + extent - 1`.

    They are counted from `margin` zeros before the first input.
    """

    extent: int
    stride: int
    margin: int

    def outputs(self, size: int) -> int:
        """Return how many outputs there are of so many inputs, margins not counted."""
        return (size + 2 * self.margin - self.extent) // self.stride + 1


def together(fields: Iterable[ReceptiveField]) -> ReceptiveField:
    """Return what layers on end see: the last one's outputs, of the first one's inputs."""
    extent, stride, margin = 1, 1, 0
    for field in fields:
        extent += stride * (field.extent - 1)
        margin += stride * field.margin
        stride *= field.stride
    return ReceptiveField(extent, stride, margin)


def spoiled(fields: Sequence[ReceptiveField]) -> tuple[int, int]:
    """Return how many outputs at the beginning and end of a patch are not those of the image.

    Layers after the first one pad by themselves, and see zeros where the image goes on.
    """
    before = after = 0
    for extent, stride, margin in fields[1:]:
        before = -(-(before + margin) // stride)
        after = -(-(after + extent - margin) // stride) - 1
    return before, after


def grown(field: ReceptiveField, rect: Rect, shape: Sequence[int]) -> Rect:
    """Return which outputs, of `shape` [.., h, w], depend on inputs in `rect`."""
    top, left, bottom, right = rect
    reach, stride, margin = field.extent - 1 - field.margin, field.stride, field.margin
    return (max(0, -((reach - top) // stride)), max(0, -((reach - left) // stride)),
            min(shape[-2], (bottom - 1 + margin) // stride + 1),
            min(shape[-1], (right - 1 + margin) // stride + 1))


def widened(rect: Rect, rim: tuple[int, int], shape: Sequence[int]) -> Rect:
    """Return the rectangle with a rim, as far as that lies within `shape` [.., h, w].

    The rim is `rim[0]` wide above and on the left, `rim[1]` below and on the right.
    """
    top, left, bottom, right = rect
    return (max(0, top - rim[0]), max(0, left - rim[0]), min(shape[-2], bottom + rim[1]),
            min(shape[-1], right + rim[1]))


def patch(first: ReceptiveField, stride: int, rect: Rect, shape: Sequence[int]) -> Rect:
    """Return the inputs, of `shape` [.., h, w], that layers on end make the outputs in `rect` of.

    Of what lies outside the shape only the margin of the `first` one is among them. `stride` is
    that of all together.
    """
    before, after = first.margin, first.extent - first.stride - first.margin
    top, left, bottom, right = (stride * end for end in rect)
    return (top - before, left - before, min(bottom + after, shape[-2] + before),
            min(right + after, shape[-1] + before))


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
