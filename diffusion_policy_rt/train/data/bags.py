"""Reads bags of ROS 2 and ROS 1 as demonstrations, by the contract of the policy node."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from diffusion_policy_rt.errors import DataError
from diffusion_policy_rt.replay.bag_data import BagRows, Wanted, is_bag
from diffusion_policy_rt.spec import CameraSpec
from diffusion_policy_rt.train.data.dataset import Dataset
from diffusion_policy_rt.train.data.frames import Frames

if TYPE_CHECKING:
    from diffusion_policy_rt.train.recipe import Recipe, VectorRecipe

__all__ = ['is_bag', 'read_bag']


def read_bag(path: Path, recipe: Recipe, actions: bool = True) -> Dataset:
    """Read a bag at the recipe's rate; without `actions` it need not hold any.

    Names of topics among a stream's keys are preferred; else topics are found as `dprt replay`
    finds them. The columns are those that the recipe names.
    """
    for name, vector in (('state', recipe.state), ('action', recipe.action)):
        _check_names(path, name, vector)
    if recipe.pretrain is not None:
        raise DataError(f'{path}: the recipe pretrains encoders on {recipe.pretrain.keys[0]!r}, '
                        'which a bag does not hold; use a recipe without `pretrain`')
    cameras = tuple(CameraSpec(name, c.height, c.width, 1, c.crop)
                    for name, c in recipe.cameras.items())
    rows = BagRows(path, Wanted(
        cameras, recipe.state.names, recipe.action.names if actions else (), recipe.rate,
        topic_keys(recipe)))
    streams = {**{camera.name: BagFrames(rows, camera) for camera in cameras}, **rows.streams}
    return Dataset(streams, rows.ends, recipe.rate, f'bag {path}',
                   {name: name for name in streams})


class BagFrames(Frames):
    """The images of one camera in a bag, which is read from its beginning each time."""

    def __init__(self, rows: BagRows, camera: CameraSpec) -> None:
        super().__init__(int(rows.ends[-1]), camera.height, camera.width)
        self._rows, self._camera = rows, camera.name

    def each(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the images of these rows."""
        return self._rows.images(self._camera, rows)


def _check_names(path: Path, name: str, vector: VectorRecipe) -> None:
    if vector.index is not None and vector.index != tuple(range(len(vector.names))):
        raise DataError(f'{path}: the recipe takes columns {list(vector.index)} of {name}; of a '
                        'bag values are taken by name, so leave `index` out')


def topic_keys(recipe: Recipe) -> dict[str, tuple[str, ...]]:
    """Return the topics that the recipe names for each input of a bag."""
    keys = {f'camera.{name}': camera.keys for name, camera in recipe.cameras.items()}
    keys |= {'state': recipe.state.keys, 'action': recipe.action.keys}
    return {name: tuple(key for key in found if key.startswith('/'))
            for name, found in keys.items()}
