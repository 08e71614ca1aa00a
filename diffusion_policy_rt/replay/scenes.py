"""What a camera sees while caches are measured: Push-T, a square that changes, noise, a shift."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from diffusion_policy_rt.sim.pusht import PushT

IMAGES = 16
"""A scene has so many images, over and over."""
SEED = 200_000
NOISE = 3
"""Size of the noise of a real sensor, of 255."""

Images = list[np.ndarray]


def pusht(rows: int, columns: int) -> Images:
    """Return Push-T while the tool goes round and through the block, uint8 [rows, columns, 3]."""
    robot, made = PushT(), []
    robot.reset(SEED)
    for number in range(IMAGES):
        angle = 2 * np.pi * number / IMAGES
        robot.step(robot.block[:2] + 80 * np.array([np.cos(angle), np.sin(angle)]))
        made.append(robot.render(columns, rows))
    return made


def square(images: Images, share: float) -> Images:
    """Return the first image with a square of a share of it that changes, in the middle."""
    rows, columns = images[0].shape[:2]
    side, rng = round((share * rows * columns)**0.5), np.random.default_rng(0)
    made, top, left = [images[0].copy() for _ in images], (rows - side) // 2, (columns - side) // 2
    for image in made:
        image[top:top + side, left:left + side] = rng.integers(0, 256, 3, np.uint8)
    return made


def noisy(images: Images) -> Images:
    """Return the images with noise of up to `NOISE` in every pixel."""
    rng = np.random.default_rng(0)
    return [np.clip(image + rng.integers(-NOISE, NOISE + 1, image.shape), 0, 255).astype(np.uint8)
            for image in images]


def moved(images: Images) -> Images:
    """Return the first image, of which every column goes one on each time, over a texture."""
    texture = np.random.default_rng(0).integers(0, 128, images[0].shape, np.uint8)
    return [np.roll(images[0] // 2 + texture, number, axis=1) for number in range(len(images))]


SCENES: dict[str, Callable[[Images], Images]] = {
    'no new frame': lambda images: images[:1],
    'still': lambda images: images[:1],
    'push-t': lambda images: images,
    'push-t, noise': noisy,
    'square of 5 %': lambda images: square(images, 0.05),
    'square of 20 %': lambda images: square(images, 0.2),
    'moved camera': moved,
    'all frames new': moved}


def frames_per_plan(scene: str, n_obs: int) -> Iterator[int]:
    """Yield how many new frames there are for each plan, for ever."""
    most = n_obs if scene == 'all frames new' else 1
    yield most
    while True:
        yield 0 if scene == 'no new frame' else most
