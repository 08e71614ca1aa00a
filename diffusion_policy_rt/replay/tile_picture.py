"""A picture of what tiles make of one frame: what changed, and what stages computed for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from diffusion_policy_rt.engines.bundle import read_bundle
from diffusion_policy_rt.engines.load import load_engine
from diffusion_policy_rt.errors import DprtError
from diffusion_policy_rt.replay.pictures import write_picture
from diffusion_policy_rt.replay.scenes import SCENES, pusht
from diffusion_policy_rt.runtime.frame import window
from diffusion_policy_rt.runtime.ports import Staged, StagedEngine
from diffusion_policy_rt.runtime.receptive import Rect, grown, merged, widened
from diffusion_policy_rt.runtime.tiles import TILE, by_tile, rectangles, shrunk

SIDE = 480
"""Rows of each panel [px]."""
SHOWN = ('push-t', 'square of 5 %', 'square of 20 %')
DIRTY, COMPUTED = (230, 57, 70), (42, 157, 143)


def stages(staged: Staged, rects: Sequence[Rect], shape: tuple[int, ...]) -> list[
        tuple[list[Rect], float]]:
    """Return, of each stage, what is computed in pixels of the image and as a share of it.

    `rects` are the pixels that changed, of an image of `shape` [h, w, 3].
    """
    told, size, scale = [], (shape[0], shape[1]), 1
    for stage in staged.stages:
        size, scale = stage.outputs(size), scale * stage.field.stride
        rects = merged(grown(stage.field, rect, size) for rect in rects)
        wide = [widened(rect, stage.spoiled, size) for rect in rects]
        area = sum((bottom - top) * (right - left) for top, left, bottom, right in wide)
        told.append(([(a * scale, b * scale, c * scale, d * scale) for a, b, c, d in wide],
                     area / (size[0] * size[1])))
    return told


def panel(staged: Staged, frame: np.ndarray, seen: Sequence[np.ndarray],
          name: str) -> np.ndarray:
    """Return a frame with its dirty tiles and what each stage computes, uint8 [.., .., 3].

    `seen` are the windows of the frame before, and of this one.
    """
    far = cv2.absdiff(*seen)
    dirty = by_tile(far) > 0
    rects = [shrunk(rect, far, 0) for rect in rectangles(dirty, far.shape)]
    told = stages(staged, rects, far.shape)
    factor = SIDE / frame.shape[0]
    picture = cv2.resize(frame, None, fx=factor, fy=factor, interpolation=cv2.INTER_NEAREST)
    for row, column in np.argwhere(dirty):
        _outline(picture, (row * TILE, column * TILE, (row + 1) * TILE, (column + 1) * TILE),
                 factor, DIRTY)
    for rects, _ in told:
        for rect in rects:
            _outline(picture, rect, factor, COMPUTED)
    title = np.full((48, picture.shape[1], 3), 255, np.uint8)
    shares = ', '.join(f'{100 * share:.0f}' for _, share in told)
    for line, text in enumerate((f'{name}: {100 * dirty.mean():.0f} % of the tiles changed',
                                 f'computed by stage: {shares} %')):
        cv2.putText(title, text, (6, 18 + 22 * line), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1,
                    cv2.LINE_AA)
    return np.vstack((title, picture))


def _outline(picture: np.ndarray, rect: Rect, factor: float, colour: tuple[int, ...]) -> None:
    top, left, bottom, right = (round(factor * value) for value in rect)
    cv2.rectangle(picture, (left, top), (right - 1, bottom - 1), colour, 1)


def write_tiles(path: Path, policy: str) -> None:
    """Draw the bundle's frames of three scenes with their tiles; DprtError where it has none."""
    bundle = read_bundle(policy)
    camera, engine = bundle.spec.cameras[0], load_engine(bundle, 'onnxruntime')
    staged = engine.staged(camera.name) if isinstance(engine, StagedEngine) else None
    if staged is None:
        raise DprtError(f'{policy}: its encoder has no stages to encode in part; take a policy '
                        'with a keypoint encoder, and write it anew by dprt export')
    frames, panels = pusht(camera.height, camera.width), []
    for name in SHOWN:
        before, after = SCENES[name](frames)[6:8]
        panels.append(panel(staged, after, [window(f, camera) for f in (before, after)], name))
    write_picture(path, np.hstack(panels))
