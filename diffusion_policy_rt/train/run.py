"""`dprt train`: data set and recipe in, bundle out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import nn

from diffusion_policy_rt.errors import DataError
from diffusion_policy_rt.model.policy import Policy, make_encoder
from diffusion_policy_rt.spec import CameraSpec, PolicySpec
from diffusion_policy_rt.train.assemble import columns, gather_chunks, make_spec
from diffusion_policy_rt.train.conditions import frozen_conditions, latent_deviation
from diffusion_policy_rt.train.data import Dataset, join, read_dataset
from diffusion_policy_rt.train.data.bags import is_bag, read_bag
from diffusion_policy_rt.train.data.frames import Frames, Held, fitted
from diffusion_policy_rt.train.data.streams import MayLack
from diffusion_policy_rt.train.distributed import World
from diffusion_policy_rt.train.feed import Feed, Images, Whole, span_of
from diffusion_policy_rt.train.objectives import (
    KeypointObjective, LatentObjective, PixelObjective)
from diffusion_policy_rt.train.order import PooledOrder
from diffusion_policy_rt.train.progress import SUCCESS, chosen_windows
from diffusion_policy_rt.train.recipe import Optimisation, Pretraining, Recipe
from diffusion_policy_rt.train.history import History, Referee
from diffusion_policy_rt.train.trainer import Objective, Trainer
from diffusion_policy_rt.train.windows import Windows, make_windows, split_episodes

if TYPE_CHECKING:
    from diffusion_policy_rt.train.selection import ClosedLoop


SEEN = ('cameras', 'state', 'action', 'n_obs', 'horizon', 'encoder', 'pretrain', 'max_episodes')
"""Sections of a recipe that pretrained encoders depend on."""


class Training:
    """One training run: the data at hand, the policy being made, and the curves so far."""

    def __init__(self, recipe: Recipe, data: Dataset, out: Path, seed: int, world: World,
                 closed_loop: ClosedLoop | None = None, stream: float = 0.0) -> None:
        """`stream`: bytes of images that all processes hold at most; 0: each holds all."""
        self.recipe, self.data, self.out, self.seed, self.world = recipe, data, out, seed, world
        self.closed_loop = closed_loop
        torch.manual_seed(seed)
        self.windows: Windows = make_windows(data.episode_ends, recipe.n_obs, recipe.horizon)
        self.states = columns(data, 'state', recipe.state)
        gathered = gather_chunks(recipe, data, self.windows)
        latent_dim = cast(int, make_encoder(recipe.encoder).latent_dim)
        self.spec: PolicySpec = make_spec(recipe, self.states, gathered, latent_dim)
        self.chunks = self.spec.action.normalise(gathered).astype(np.float32)
        self.held_out = split_episodes(data.episode_ends, recipe.train.validation_ratio, seed)
        self.stream = stream
        frames = {c.name: fitted(data.streams[c.name], c) for c in self.spec.cameras}
        self.images = frames if stream else {name: Held(f[:]) for name, f in frames.items()}
        self.model = {'encoder': dict(recipe.encoder), 'denoiser': dict(recipe.denoiser)}
        with world.building():
            self.policy = Policy(self.spec, self.model)
        self.curves: dict[str, History] = {}

    def fingerprint(self, sections: Collection[str], referee: Referee | None = None,
                    feed: Feed | None = None) -> str:
        """Return what a checkpoint belongs to: recipe, seed, data, referee, feed."""
        source = self.recipe.source
        parts: list[Any] = [{key: source.get(key) for key in sections}, self.seed,
                            self.recipe.train.validation_ratio, len(self.states),
                            float(self.chunks.sum())]
        parts += [self.closed_loop.key] if self.closed_loop and referee else []
        parts += [feed.order.span] if feed else []
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    def run(self) -> Policy:
        """Train all stages, resuming each; return the policy with averaged weights."""
        referee = (self.closed_loop.referee(self.policy, self.model)
                   if self.closed_loop else None)
        if self.recipe.pretrain is not None:
            for camera in self.spec.cameras:
                self._pretrain(camera, self.recipe.pretrain)
            self.policy.denoiser = self._fit(self._latent_objective(), 'denoiser', referee=referee)
        else:
            images = self._images(self.images, self.windows.observed, self.recipe.train)
            self.policy = cast(Policy, self._fit(PixelObjective(
                self.policy, images, self.spec.state.normalise(self.states),
                self.windows.observed, self.chunks, self.held_out, self.recipe.train,
                self.world.device), 'policy', referee=referee, images=images))
        return self.policy.eval()

    def _images(self, frames: Mapping[str, Frames], observed: np.ndarray,
                how: Optimisation) -> Images:
        """Return where a stage has its images from, of which a row looks at `observed` [W, n]."""
        if not self.stream or not frames:
            return Whole(frames, self.world.device)
        order = PooledOrder(
            np.flatnonzero(~self.held_out), how.batch_size, self.seed, self.data.episode_ends,
            span_of(self.stream, frames, how.batch_size, observed.shape[1] - 1))
        return Feed(frames, observed, order, how.epochs * order.per_epoch, self.world)

    def _fit(self, objective: Objective, title: str, how: Optimisation | None = None,
             referee: Referee | None = None, world: World | None = None,
             sections: Collection[str] = (), images: Images | None = None) -> nn.Module:
        """Train; a checkpoint stays good while these sections of the recipe do (none: all)."""
        feed = images if isinstance(images, Feed) else None
        trainer = Trainer(objective, how or self.recipe.train, world or self.world, self.seed,
                          self.out / f'{title}.ckpt',
                          self.fingerprint(sections or self.recipe.source, referee, feed), referee,
                          feed)
        module = trainer.run(title)
        self.curves[title] = trainer.history
        return module

    def _pretrain(self, camera: CameraSpec, how: Pretraining) -> None:
        stream = self.data.streams[pretrained(camera.name)]
        positions = stream.reshape(len(self.states), -1, 2)
        targets = (2 * positions / np.asarray(how.extent) - 1).reshape(len(positions), -1)
        if targets.shape[1] != camera.latent_dim:
            raise DataError(f'{self.data.source}: pretraining has {targets.shape[1] // 2} '
                            f'keypoints, the encoder {camera.latent_dim // 2}; make them equal')
        images = self._images({camera.name: self.images[camera.name]},
                              np.arange(len(targets))[:, None], how)
        objective = KeypointObjective(
            self.policy.encoders[camera.name], camera, images,
            targets.astype(np.float32), self.held_out, how.max_shift, self.world.device)
        # every process needs the encoders, to compute its conditions
        self.policy.encoders[camera.name] = self._fit(objective, f'encoder_{camera.name}', how,
                                                      world=self.world.replicated(),
                                                      sections=SEEN, images=images)

    def _latent_objective(self) -> LatentObjective:
        observed = frozen_conditions(self.policy, self.images, self.states, self.windows,
                                     self.world)
        noise = latent_deviation(self.spec, self.recipe.train.latent_noise)
        chosen = chosen_windows(
            self.recipe.select, observed, self.data, noise, self.recipe.n_obs, self.world.device,
            lambda objective: self._fit(objective, 'progress', self.recipe.select,
                                        world=self.world.replicated(),
                                        sections=(*SEEN, 'select')))
        return LatentObjective(self.policy, observed, self.chunks, self.held_out, chosen, noise,
                               self.recipe.train, self.world.device)


def stream_keys(recipe: Recipe) -> dict[str, tuple[str, ...]]:
    """Return the streams a recipe reads, each with its alternative keys."""
    keys = {name: tuple(camera.keys) for name, camera in recipe.cameras.items()}
    keys |= {'state': tuple(recipe.state.keys), 'action': tuple(recipe.action.keys)}
    if recipe.pretrain is not None:
        keys |= {pretrained(camera): tuple(key.format(camera=camera)
                                           for key in recipe.pretrain.keys)
                 for camera in recipe.cameras}
    if recipe.select is not None:
        keys[SUCCESS] = MayLack(recipe.select.keys)
    return keys


def pretrained(camera: str) -> str:
    """Return the name of the stream of positions that a camera's encoder is taught."""
    return f'pretrain_{camera}'


def open_data(recipe: Recipe, paths: Sequence[str | Path], actions: bool = True) -> Dataset:
    """Read the recipe's streams of one or more data sets or bags, one after the other.

    Bags need hold no actions without `actions`. DataError if a data set's rate is another than the
    recipe's.
    """
    data = join([_open(recipe, path, actions) for path in paths])
    return data.first(recipe.max_episodes) if recipe.max_episodes else data


def _open(recipe: Recipe, path: str | Path, actions: bool) -> Dataset:
    if is_bag(Path(path).expanduser()):
        return read_bag(Path(path).expanduser(), recipe, actions)
    data = read_dataset(path, stream_keys(recipe))
    if data.rate_hz is not None and abs(data.rate_hz - recipe.rate) > 1e-3 * recipe.rate:
        raise DataError(f'{data.source} was recorded at {data.rate_hz:g} Hz; the recipe says '
                        f'{recipe.rate:g}')
    return data
