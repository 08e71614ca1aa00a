"""`dprt distill`: a teacher's bundle and its data in, a student of few steps out."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from diffusion_policy_rt.engines.bundle import Bundle
from diffusion_policy_rt.engines.torch_engine import load_policy
from diffusion_policy_rt.errors import DataError, SpecError
from diffusion_policy_rt.model.policy import Policy, make_denoiser
from diffusion_policy_rt.runtime.prefix import PrefixLayout
from diffusion_policy_rt.spec import PolicySpec
from diffusion_policy_rt.train.assemble import columns, gather_chunks
from diffusion_policy_rt.train.conditions import (
    frozen_conditions, latent_deviation, noised)
from diffusion_policy_rt.train.data import Dataset
from diffusion_policy_rt.train.data.frames import fitted
from diffusion_policy_rt.train.distill.compare import Comparison
from diffusion_policy_rt.train.distill.denoiser import NetworkDenoiser
from diffusion_policy_rt.train.distill.methods import METHODS
from diffusion_policy_rt.train.distill.networks import Loss, Networks
from diffusion_policy_rt.train.distill.recipe import DistillRecipe
from diffusion_policy_rt.train.distill.trainer import DistillTrainer
from diffusion_policy_rt.train.distributed import World
from diffusion_policy_rt.train.prefix import draw_lengths, with_prefix, without_prefix
from diffusion_policy_rt.train.progress import chosen_windows, outcomes
from diffusion_policy_rt.train.recipe import Recipe, parse_recipe
from diffusion_policy_rt.train.run import open_data
from diffusion_policy_rt.train.sharding import put, start_as
from diffusion_policy_rt.train.history import History
from diffusion_policy_rt.train.trainer import Objective, Trainer
from diffusion_policy_rt.train.windows import make_windows, split_episodes

if TYPE_CHECKING:
    from diffusion_policy_rt.train.selection import ClosedLoop


def teacher_recipe(teacher: Bundle) -> Recipe:
    """Return the recipe that the teacher was trained by, which names the data's streams."""
    source = teacher.training.get('recipe')
    if not isinstance(source, Mapping):
        raise DataError(f'{teacher.folder} does not tell the recipe it was trained by; distill '
                        'from a bundle that dprt train wrote')
    if teacher.spec.precond.stop_time or 'teacher' in teacher.training:
        raise DataError(f'{teacher.folder} is itself a student; give --teacher its teacher')
    return parse_recipe(source)


def student_spec(teacher: PolicySpec, recipe: DistillRecipe) -> PolicySpec:
    """Return the teacher's spec with the student's parametrisation and schedules."""
    method, old = METHODS[recipe.method], teacher.precond
    try:
        schedules = method.schedules(recipe.loss, recipe.steps)
    except ValueError as error:
        raise SpecError(f'recipe: {error}') from error
    precond = dataclasses.replace(old, kind=method.kind or old.kind, stop_time=method.stop_time,
                                  levels=() if method.kind else old.levels)
    return dataclasses.replace(teacher, precond=precond, schedules=schedules)


class Distillation:
    """One run: teacher and student, the data at hand, and the curves so far."""

    def __init__(self, teacher: Bundle, recipe: DistillRecipe, data: Sequence[str | Path],
                 out: Path, seed: int, world: World,
                 closed_loop: ClosedLoop | None = None) -> None:
        if recipe.method == 'meanflow' and (world.strategy.shard or world.strategy.recompute):
            raise SpecError('meanflow differentiates forward, through which neither --shard nor '
                            '--recompute can; leave them off, or choose another --method')
        self.closed_loop = closed_loop
        self.recipe, self.out, self.seed, self.world = recipe, out, seed, world
        self.method = METHODS[recipe.method]
        plan = teacher_recipe(teacher)
        self.teacher = load_policy(teacher, world.building(), put).requires_grad_(False)
        self.teacher.encoders.to(world.device)
        world.place(self.teacher.denoiser, trained=False)
        # not the bundle's own digest, which changes when it is evaluated
        self.digest = str(teacher.files['weights.safetensors']['sha256'])
        self._read(teacher, plan, data)
        torch.manual_seed(seed)
        self.spec = student_spec(teacher.spec, recipe)
        self.plain = teacher.model['denoiser']
        self.model = {**teacher.model, 'denoiser': {**self.plain, **self.method.denoiser}}
        with world.building():
            self.student = Policy(self.spec, self.model)
        self.student.encoders.load_state_dict(self.teacher.encoders.state_dict())
        if self.method.from_teacher:
            start_as(self.student.denoiser, self.teacher.denoiser)
        self.module: nn.Module = self.student.denoiser
        self.make = self.student.make_denoiser
        with world.compute():
            self.comparison = Comparison(
                NetworkDenoiser(self.teacher.denoiser, teacher.spec.precond, self.layout),
                teacher.spec, without_prefix(self.layout, self.observed[self.compared]), world,
                max(1, recipe.train.batch_size // world.parts))
        self.history = History()

    def _read(self, teacher: Bundle, plan: Recipe, paths: Sequence[str | Path]) -> None:
        plan = dataclasses.replace(plan, pretrain=None)  # the teacher's encoders are trained
        data, spec, how = open_data(plan, paths), teacher.spec, self.recipe.train
        windows = make_windows(data.episode_ends, spec.n_obs, spec.horizon)
        states = columns(data, 'state', plan.state)
        chunks = spec.action.normalise(gather_chunks(plan, data, windows)).astype(np.float32)
        images = {c.name: fitted(data.streams[c.name], c) for c in spec.cameras}
        observed = frozen_conditions(self.teacher, images, states, windows, self.world)
        self.layout = PrefixLayout.of(spec)
        self.noise = latent_deviation(spec, how.latent_noise).astype(np.float32)
        self.chunks = torch.from_numpy(chunks).to(self.world.device)
        self.observed = torch.from_numpy(observed).to(self.world.device)
        held_out = split_episodes(data.episode_ends, how.validation_ratio, self.seed)
        chosen = self._choose(plan, data, observed)
        self.train_rows = np.flatnonzero(chosen & ~held_out)
        rows = np.flatnonzero(chosen & held_out) if held_out.any() else self.train_rows
        self.compared = rows[::max(1, len(rows) // how.validation_sets)]
        self.facts = {'data': data.title, 'episodes': len(data.episode_ends),
                      'rows': len(states)}

    def _choose(self, plan: Recipe, data: Dataset, observed: np.ndarray) -> np.ndarray:
        """Return the windows that are learned from, bool [W].

        A teacher has learned from data that told success what to do in these, which need not.
        """
        found = outcomes(data)
        if plan.select is not None and not found.met.any():
            print(f'{data.title}: no episode tells that it met success; all is distilled but '
                  'the ends')
            return found.left >= plan.select.ahead
        return chosen_windows(plan.select, observed, data, self.noise, self.teacher.spec.n_obs,
                              self.world.device, lambda objective: self._judge(objective, plan))

    def _judge(self, objective: Objective, plan: Recipe) -> nn.Module:
        assert plan.select is not None
        return Trainer(objective, plan.select, self.world.replicated(), self.seed,
                       self.out / 'progress.ckpt', self.fingerprint).run('progress')

    @property
    def fingerprint(self) -> str:
        """Identifies what a checkpoint belongs to: recipe, seed, teacher and data."""
        parts: list[Any] = [self.recipe.source, self.seed, self.digest, len(self.chunks),
                 float(self.chunks.double().sum())]
        parts += [self.closed_loop.key] if self.closed_loop else []
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    def loss_of(self, student: nn.Module, average: nn.Module) -> Loss:
        """Put the method's loss together; its critic, if it has one, starts as the teacher."""
        with self.world.building():
            critic = make_denoiser(self.spec, {**self.plain, 'stop_time': True})
        start_as(critic, self.teacher.denoiser)
        return self.method.make(Networks(
            student, average, self.spec.precond, self.teacher.denoiser,
            self.teacher.spec.precond, critic, self.layout,
            self.batch(self.train_rows[:1], np.random.default_rng(0))), self.recipe.loss)

    def batch(self, rows: np.ndarray, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Return chunks [B, H, A] and conditions [B, C] of these windows.

        The latents are noised, and a random prefix of each chunk is told as committed.
        """
        index = torch.from_numpy(rows).to(self.chunks.device)
        chunks, seen = self.chunks[index], noised(self.observed[index], self.noise, rng)
        lengths = draw_lengths(self.layout, len(rows), rng)
        return chunks, with_prefix(self.layout, seen, chunks, lengths)

    def measure(self, module: nn.Module) -> dict[str, float]:
        """Compare a student's chunks with the teacher's under the held-out conditions."""
        module.eval()
        denoiser = NetworkDenoiser(module, self.spec.precond, self.layout)
        return self.comparison.measure(denoiser, self.spec)

    def run(self) -> Policy:
        """Train, resuming what stands in `out`; return the best student."""
        referee = (self.closed_loop.referee(self.student, self.model)
                   if self.closed_loop else None)
        trainer = DistillTrainer(self, self.recipe.train, self.world, self.seed,
                                 self.out / 'student.ckpt', self.fingerprint, referee)
        self.student.denoiser = cast(Any, trainer.run(self.recipe.method))
        self.history = trainer.history
        return self.student.eval()
