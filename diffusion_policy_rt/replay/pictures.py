"""Contact sheets of episodes."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from diffusion_policy_rt.errors import DprtError
from diffusion_policy_rt.replay.episode import Episode

COLUMNS = 13  # pictures of a whole episode


def strip(pictures: list[np.ndarray], caption: str) -> np.ndarray:
    """Return pictures uint8 [H, W, 3] side by side under a caption; short episodes end white."""
    blank = np.full_like(pictures[0], 255)
    row = np.hstack([*pictures[:COLUMNS], *[blank] * (COLUMNS - len(pictures))])
    title = np.full((24, row.shape[1], 3), 255, np.uint8)
    cv2.putText(title, caption, (6, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    return np.vstack((title, row))


def write_picture(path: Path, rgb: np.ndarray) -> None:
    """Write uint8 [H, W, 3] RGB; DprtError where it cannot be written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        written = cv2.imwrite(str(path), cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    except cv2.error as error:
        raise DprtError(f'cannot write {path}: use a name that ends in .png or .jpg') from error
    if not written:
        raise DprtError(f'cannot write {path}')


def write_sheet(path: Path, episodes: list[Episode]) -> None:
    """Write one row of pictures per episode, from its start to its end."""
    rows = [strip(e.pictures, f'seed {e.seed}: score {e.max_coverage:.2f}'
                  f'{", success" if e.success else ""} after {len(e.coverages)} steps')
            for e in episodes]
    write_picture(path, np.vstack(rows))
