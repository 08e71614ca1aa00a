"""A distillation recipe: how long, how fast, and the options of the method's loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffusion_policy_rt.errors import DataError
from diffusion_policy_rt.share import read_yaml
from diffusion_policy_rt.spec import build
from diffusion_policy_rt.train.distill.methods import METHODS
from diffusion_policy_rt.train.recipe import Optimisation


@dataclass(frozen=True)
class DistillTraining(Optimisation):
    """How a student is trained."""

    latent_noise: float = 0.0
    """Standard deviation of noise added to the latents, as the teacher's training had it."""
    validation_ratio: float = 0.02
    """Share of the episodes under whose observations student and teacher are compared."""
    validation_sets: int = 48
    """Observations compared at the end of each epoch."""


@dataclass(frozen=True)
class DistillRecipe:
    """Everything `dprt distill` needs besides the teacher and the data."""

    method: str
    steps: tuple[int, ...]
    """Step counts that the student is to serve."""
    train: DistillTraining
    loss: Any
    """The method's options."""
    source: Mapping[str, Any] = field(default_factory=dict)


def load_distill_recipe(name: str | Path, method: str, epochs: int = 0) -> DistillRecipe:
    """Read a recipe file or a shipped one; `epochs` above zero replaces the recipe's."""
    data = dict(read_yaml(name, 'recipe'))
    if data.get('method') != method:
        raise DataError(f'recipe {name} is for method {data.get("method")!r}, not {method!r}')
    if epochs:
        data['train'] = {**(data.get('train') or {}), 'epochs': epochs}
    parts = dict(data)
    parts['train'] = build(DistillTraining, data.get('train') or {}, 'train')
    parts['loss'] = build(METHODS[method].options, data.get('loss') or {}, 'loss')
    parts['steps'] = tuple(data.get('steps') or (1,))
    return build(DistillRecipe, {**parts, 'source': data}, 'recipe')
