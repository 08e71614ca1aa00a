"""A training recipe: which streams of a data set to learn from, and how. Read from YAML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffusion_policy_rt.errors import SpecError
from diffusion_policy_rt.share import read_yaml
from diffusion_policy_rt.spec import build


@dataclass(frozen=True)
class CameraRecipe:
    """One camera's images."""

    keys: tuple[str, ...]
    """Names under which data sets hold the stream, in order of preference."""
    height: int
    width: int
    crop: tuple[int, int] | None = None
    """Crop in training at random, when running from the middle [px]."""


@dataclass(frozen=True)
class VectorRecipe:
    """A vector stream; bounds in units."""

    keys: tuple[str, ...]
    names: tuple[str, ...]
    units: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    index: tuple[int, ...] | None = None
    """Columns of the stream to use; None uses all."""
    reference: str = 'absolute'
    """Actions only: `absolute`, or `state` for offsets from the newest observed state."""


@dataclass(frozen=True)
class Optimisation:
    """How long and how fast to learn."""

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float = 1e-4
    warmup_steps: int = 500
    ema_decay: float = 0.9995
    clip_norm: float = 1.0
    beta1: float = 0.95
    """AdamW's decay of the gradient's mean."""


@dataclass(frozen=True)
class Pretraining(Optimisation):
    """Teach the encoders image positions that the data set knows, before the policy is trained."""

    keys: tuple[str, ...] = ()
    """The stream of positions, [N, K, 2] or [N, 2K] (x, y); `{camera}` stands for the camera."""
    extent: tuple[float, float] = (1.0, 1.0)
    """Width and height of the image in the positions' units."""
    max_shift: int = 4
    """Shift augmentation [px of the network's input]."""


@dataclass(frozen=True)
class Training(Optimisation):
    """Train the policy: on latents computed once when the encoders were pretrained, else whole."""

    latent_noise: float = 0.0
    """Standard deviation of noise added to pretrained latents."""
    validation_ratio: float = 0.02
    """Share of the episodes kept for validation."""
    sigma_mean: float = -1.2
    """`edm`, `flow`: mean of the logarithm of the noise level (edm: Karras et al. 2022)."""
    sigma_std: float = 1.2
    """`edm`, `flow`: standard deviation of the logarithm of the noise level."""


@dataclass(frozen=True)
class Selection(Optimisation):
    """Learn only from windows whose actions brought success nearer than was to be expected."""

    keys: tuple[str, ...] = ('success', 'next.success')
    """A stream that is above 0 where success is met; data sets may lack it."""
    discount: float = 0.98
    """Of success, per control step."""
    ahead: int = 12
    """Control steps after which what was gained is looked at."""
    least: float = 0.0
    """Control steps that must be gained by then on what was to be expected."""


@dataclass(frozen=True)
class Recipe:
    """Everything `dprt train` needs besides the data."""

    name: str
    rate: float
    cameras: Mapping[str, CameraRecipe]
    state: VectorRecipe
    action: VectorRecipe
    n_obs: int
    horizon: int
    n_action_steps: int
    steps: tuple[int, ...]
    encoder: Mapping[str, Any]
    denoiser: Mapping[str, Any]
    train: Training
    parametrisation: str = 'edm'
    """`edm`, `ddpm` or `flow`."""
    ddpm_levels: int = 100
    """Training steps of the `ddpm` parametrisation."""
    sigma_min: float = 0.02
    """`edm`: the noise level that samplers take for zero."""
    sigma_max: float = 80.0
    """`edm`, `flow`: the noise level that a sampler starts from."""
    pretrain: Pretraining | None = None
    select: Selection | None = None
    """Only with `pretrain`, whose encoders it needs."""
    prefix: int = 0
    """Committed actions that a plan can be told, for continuity under latency; 0 for none."""
    max_episodes: int | None = None
    """Learn from the first so many episodes only."""
    source: Mapping[str, Any] = field(default_factory=dict)
    """The YAML as it was read; kept in the bundle."""


def parse_recipe(data: Mapping[str, Any]) -> Recipe:
    """Build a recipe from YAML data; SpecError names the first key that is wrong."""
    parts = dict(data)
    parts['cameras'] = {name: build(CameraRecipe, camera, f'cameras.{name}')
                        for name, camera in dict(data.get('cameras') or {}).items()}
    for key, part in (('state', VectorRecipe), ('action', VectorRecipe), ('train', Training)):
        parts[key] = build(part, data.get(key) or {}, key)
    for key, section in (('pretrain', Pretraining), ('select', Selection)):
        if data.get(key):
            parts[key] = build(section, data[key], key)
    recipe = build(Recipe, {**parts, 'source': dict(data)}, 'recipe')
    if recipe.select is not None and recipe.pretrain is None:
        raise SpecError('recipe: `select` judges what pretrained encoders see; add `pretrain`, or '
                        'take `select` out')
    return recipe


def load_recipe(name: str | Path, epochs: int = 0, max_episodes: int = 0) -> Recipe:
    """Read a training recipe: a file, or a shipped one by its name.

    `epochs` (of the last stage) and `max_episodes` above zero replace the recipe's.
    """
    data = dict(read_yaml(name, 'recipe'))
    if epochs:
        data['train'] = {**(data.get('train') or {}), 'epochs': epochs}
    if max_episodes:
        data['max_episodes'] = max_episodes
    return parse_recipe(data)
