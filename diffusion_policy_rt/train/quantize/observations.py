"""Observations of a data set: to calibrate on, and to compare policies under."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from diffusion_policy_rt.engines.bundle import Bundle
from diffusion_policy_rt.errors import DataError
from diffusion_policy_rt.train.assemble import columns
from diffusion_policy_rt.train.recipe import Recipe, load_recipe, parse_recipe
from diffusion_policy_rt.train.run import open_data
from diffusion_policy_rt.train.windows import make_windows


def stream_recipe(bundle: Bundle, name: str) -> Recipe:
    """Return the recipe that names the data's streams: the given, the teacher's or the own."""
    if name:
        return load_recipe(name)
    told = bundle.training
    source = told.get('teacher_recipe', told.get('recipe'))
    if not isinstance(source, Mapping) or 'cameras' not in source:
        raise DataError(f'{bundle.folder} does not tell which streams it sees; name the recipe '
                        'of its teacher by --recipe')
    return parse_recipe(source)


def read_observations(bundle: Bundle, recipe: Recipe, paths: Sequence[str], count: int,
                      seed: int) -> list[dict[str, np.ndarray]]:
    """Draw `count` observations: per camera uint8 [n_obs, H, W, 3], `state` float32 [n_obs, S].

    DataError where the data set holds fewer, or the recipe lacks one of the policy's cameras.
    """
    spec = bundle.spec
    missing = [c.name for c in spec.cameras if c.name not in recipe.cameras]
    if missing:
        raise DataError(f'the recipe has no camera {missing[0]!r}, which {bundle.folder} needs; '
                        'name another by --recipe')
    data = open_data(dataclasses.replace(recipe, pretrain=None), paths, actions=False)
    windows = make_windows(data.episode_ends, spec.n_obs, spec.horizon)
    if count > len(windows.observed):
        raise DataError(f'{data.source} holds {len(windows.observed)} observations of the '
                        f'{count} asked for; ask for fewer by --observations')
    rows = np.random.default_rng(seed).choice(len(windows.observed), count, replace=False)
    states = columns(data, 'state', recipe.state).astype(np.float32)
    observed = windows.observed[rows]
    seen = {**{c.name: data.streams[c.name][observed] for c in spec.cameras},
            'state': states[observed]}
    return [{name: values[number] for name, values in seen.items()} for number in range(count)]
