"""From a recipe and a data set to a spec: names, bounds, statistics, noise levels."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np

from diffusion_policy_rt.errors import DataError
from diffusion_policy_rt.runtime.schedule import default_schedules, squared_cosine_levels
from diffusion_policy_rt.spec import (
    ActionSpec, CameraSpec, PolicySpec, Preconditioning, VectorSpec)
from diffusion_policy_rt.train.data import Dataset
from diffusion_policy_rt.train.recipe import Recipe, VectorRecipe
from diffusion_policy_rt.train.windows import Windows, chunks

V = TypeVar('V', bound=VectorSpec)
SIGMA_DATA = {'edm': 0.5, 'flow': 1.0}
"""The deviation that actions are normalised to (edm: Karras et al. 2022); ddpm uses the range."""


def columns(data: Dataset, stream: str, vector: VectorRecipe) -> np.ndarray:
    """Return the recipe's columns of a stream, float32 [N, D]; DataError if one lacks."""
    values = data.streams[stream].reshape(len(data.streams[stream]), -1)
    index = list(vector.index) if vector.index is not None else list(range(values.shape[1]))
    if max(index) >= values.shape[1] or len(index) != len(vector.names):
        raise DataError(f'{data.source}: {data.stream_keys[stream]!r} has {values.shape[1]} '
                        f'columns; the recipe wants {list(vector.names)} at {index}')
    return values[:, index]


def reference_columns(recipe: Recipe) -> np.ndarray | None:
    """Return the state columns that actions are counted from, or None for absolute actions."""
    if recipe.action.reference == 'absolute':
        return None
    return np.array([recipe.state.names.index(name) for name in recipe.action.names])


def range_map(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (offset, scale) that map each column's range to [-1, 1]."""
    low, high = values.min(0).astype(float), values.max(0).astype(float)
    return (low + high) / 2, np.maximum((high - low) / 2, 1e-6)


def deviation_map(values: np.ndarray, deviation: float) -> tuple[np.ndarray, np.ndarray]:
    """Return (offset, scale) that give each column mean 0 and this deviation."""
    return (values.mean(0, dtype=float),
            np.maximum(values.std(0, dtype=float) / deviation, 1e-6))


def stride(gathered: np.ndarray, scale: np.ndarray) -> float:
    """Return the 99th percentile of how far consecutive actions of chunks [W, H, A] lie apart."""
    return float(np.percentile(np.linalg.norm(np.diff(gathered, axis=1) / scale, axis=-1), 99))


def make_precond(recipe: Recipe) -> Preconditioning:
    """Return the recipe's parametrisation; SpecError where it is unknown."""
    if recipe.parametrisation == 'ddpm':
        return Preconditioning('ddpm', 1.0, tuple(squared_cosine_levels(recipe.ddpm_levels)))
    return Preconditioning(recipe.parametrisation, SIGMA_DATA.get(recipe.parametrisation, 1.0))


def make_spec(recipe: Recipe, states: np.ndarray, gathered: np.ndarray,
              latent_dim: int) -> PolicySpec:
    """Make the spec; `gathered` are the training chunks [W, H, A] in units, reference removed."""
    flat = gathered.reshape(-1, gathered.shape[-1])
    precond = make_precond(recipe)
    ddpm = precond.kind == 'ddpm'
    offset, scale = range_map(flat) if ddpm else deviation_map(flat, precond.sigma_data)
    extreme = float(np.abs((flat - offset) / scale).max())
    cameras = tuple(CameraSpec(name, c.height, c.width, latent_dim, c.crop)
                    for name, c in recipe.cameras.items())
    return PolicySpec(
        name=recipe.name, cameras=cameras, state=_vector(VectorSpec, recipe.state,
                                                         *range_map(states)),
        action=_vector(ActionSpec, recipe.action, offset, scale,
                       reference=recipe.action.reference, stride=stride(gathered, scale)),
        n_obs=recipe.n_obs, horizon=recipe.horizon, n_action_steps=recipe.n_action_steps,
        rate=recipe.rate, precond=precond, clip=1.0 if ddpm else extreme,
        prefix=recipe.prefix,
        schedules=default_schedules(precond, tuple(recipe.steps), recipe.sigma_min,
                                    recipe.sigma_max))


def _vector(cls: type[V], vector: VectorRecipe, offset: np.ndarray, scale: np.ndarray,
            **more: Any) -> V:
    return cls(names=vector.names, units=vector.units, low=vector.low, high=vector.high,
               offset=tuple(offset), scale=tuple(scale), **more)


def gather_chunks(recipe: Recipe, data: Dataset, windows: Windows) -> np.ndarray:
    """Return all chunks [W, H, A] in units, the reference taken off."""
    return chunks(windows, columns(data, 'action', recipe.action),
                  columns(data, 'state', recipe.state), reference_columns(recipe))
