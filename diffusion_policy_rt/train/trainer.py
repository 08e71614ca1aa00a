"""The training loop: batches, optimiser, moving average, checkpoints that resume the same run."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from diffusion_policy_rt.errors import DprtError
from diffusion_policy_rt.train import shards
from diffusion_policy_rt.train.checkpoint import Checkpoint
from diffusion_policy_rt.train.distributed import World
from diffusion_policy_rt.train.ema import EMA
from diffusion_policy_rt.train.feed import Feed
from diffusion_policy_rt.train.history import History, Referee, shortfall
from diffusion_policy_rt.train.order import Order
from diffusion_policy_rt.train.recipe import Optimisation
from diffusion_policy_rt.train.share import BatchShare
from diffusion_policy_rt.train.sharding import is_spread, lend_buffers, outline, twin, whole


class Objective(Protocol):
    """What is learned: a module, and its loss on rows of the training set."""

    module: nn.Module
    train_rows: np.ndarray

    def loss(self, module: nn.Module, rows: np.ndarray, rng: np.random.Generator) -> Tensor:
        """Return the mean loss of `module` on these rows."""

    def validate(self, module: nn.Module) -> float:
        """Return the validation loss."""


class Trainer:
    """Fits an objective.

    Every random choice of step k comes from (seed, k), so that a run that was killed and resumed
    is the run that was not, in however many processes.
    """

    def __init__(self, objective: Objective, how: Optimisation, world: World, seed: int,
                 checkpoint: Path, fingerprint: str, referee: Referee | None = None,
                 feed: Feed | None = None) -> None:
        """Train `objective`, whose images `feed` brings if it has one that is streamed."""
        self.objective, self.how, self.world, self.seed = objective, how, world, seed
        self.checkpoint = Checkpoint(checkpoint, fingerprint, world)
        if how.batch_size % world.parts:
            raise DprtError(f'batch_size {how.batch_size} is not divisible by the {world.parts} '
                            'parts that processes and --accumulate take it in')
        self.module = objective.module
        self._place(how.ema_decay)
        self.referee, self.history = referee, History()
        self.best: dict[str, Any] = {'distance': math.inf, 'epoch': 0, 'weights': {}}
        self.step = 0
        self.feed = feed
        self.order = feed.order if feed else Order(objective.train_rows, how.batch_size, seed)
        self.per_epoch = self.order.per_epoch
        self.total = how.epochs * self.per_epoch
        self.optimiser = self._optimiser(self.module)

    def _place(self, decay: float) -> None:
        """Bring the module to its device, and beside it its average and its outline."""
        if is_spread(self.module):
            bare = [self._bare() for _ in range(2)]
            self.outline = lend_buffers(bare[0], self.module)
            self.world.place(self.module)
            self.ema = EMA.of(twin(self.module, self.world.place(bare[1], trained=False)), decay)
            return
        self.outline = outline(self.module)
        self.ema = EMA(self.module, decay)
        for placed, trained in ((self.module, True), (self.ema.module, False)):
            self.world.place(placed, trained)

    def _bare(self) -> nn.Module:
        """Build the module anew without values; objectives whose modules are spread know how."""
        with torch.device('meta'):
            return cast(Any, self.objective).make()

    def _optimiser(self, module: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(module.parameters(), lr=self.how.learning_rate,
                                 betas=(self.how.beta1, 0.999),
                                 weight_decay=self.how.weight_decay)

    def rate_at(self, step: int) -> float:
        """Return the learning rate: linear warm-up, then a cosine to zero."""
        warmup = min(self.how.warmup_steps, self.total // 10)
        if step < warmup:
            return self.how.learning_rate * (step + 1) / warmup
        done = (step - warmup) / max(1, self.total - warmup)
        return self.how.learning_rate * 0.5 * (1 + math.cos(math.pi * done))

    def rows_at(self, step: int, part: int = 0) -> np.ndarray:
        """Return this process's rows of batch `step`, of its `part` of them."""
        return self.order.batch(step)[self._index(part)::self.world.parts]

    def _index(self, part: int) -> int:
        return part * self.world.size + self.world.rank

    def rng(self, part: int = 0) -> np.random.Generator:
        """Return the source of this step's random choices, for the rows of a part."""
        return BatchShare((self.seed, self.step, 0), self._index(part), self.world.parts)

    def train_step(self) -> float:
        """Take one optimiser step and return its loss."""
        self.module.train()
        loss = self.descend(lambda rows, rng: self.objective.loss(self.module, rows, rng),
                            self.module, self.optimiser, self.rate_at(self.step))
        self.ema.update(self.module, self.step)
        self.step += 1
        return loss

    def descend(self, loss: Callable[[np.ndarray, np.random.Generator], Tensor],
                module: nn.Module, optimiser: torch.optim.Optimizer, rate: float) -> float:
        """Move `module` down the loss of this step's rows, and return the loss.

        DprtError, and nothing moved, where it is not finite.
        """
        for group in optimiser.param_groups:
            group['lr'] = rate
        optimiser.zero_grad()
        total = self.world.mean(self._gradients(loss, module))
        norm = nn.utils.clip_grad_norm_(module.parameters(), self.how.clip_norm)
        if not np.isfinite(float(getattr(norm, 'full_tensor', lambda: norm)())):
            raise DprtError(f'the loss became non-finite at step {self.step}; the last good '
                            f'checkpoint is {self.checkpoint.path}; lower the learning rate')
        optimiser.step()
        return total

    def _gradients(self, loss: Callable[[np.ndarray, np.random.Generator], Tensor],
                   module: nn.Module) -> float:
        """Sum up the gradients of all parts; return this process's mean loss."""
        parts, total = self.world.strategy.accumulate, 0.0
        if self.feed:
            self.feed.advance(self.step)
        for part in range(parts):
            self.world.hold_gradients(module, part < parts - 1)
            with self.world.compute():
                mean = loss(self.rows_at(self.step, part), self.rng(part)) / parts
            mean.backward()
            total += mean.item()
        self.world.average_gradients(module)
        return total

    def networks(self) -> dict[str, shards.Network]:
        """Return the networks that a checkpoint holds, with their optimisers."""
        return {'module': (self.module, self.optimiser), 'ema': (self.ema.module, None)}

    def save(self) -> None:
        """Write the checkpoint: whole, or not at all."""
        self.checkpoint.write({'step': self.step, **self.history.facts()}, self.best,
                              self.networks())

    def resume(self) -> bool:
        """Take up the checkpoint if there is one; DprtError if it belongs to another run."""
        found = self.checkpoint.read(self.networks())
        if found is None:
            return False
        self.step, self.history = found['step'], History.of(found)
        # a checkpoint of a run that chose none may lack it
        self.best = found.get('best', self.best)
        self.history.best_epoch = self.best['epoch']
        return True

    def run(self, title: str) -> nn.Module:
        """Train to the end, from the checkpoint if there is one; return the averaged module."""
        self.resume()
        bar = tqdm(total=self.total * self.how.batch_size, initial=self.step * self.how.batch_size,
                   desc=title, unit='sample', unit_scale=True, disable=not self.world.leads)
        again = 'start the same command again: it goes on from its last checkpoint'
        # closed before an error is told, or it would draw over it
        with self.world.together(again), bar, self.feed or nullcontext():
            self._epochs(bar)
            return self.result()

    def _epochs(self, bar: tqdm) -> None:
        history, every = self.history, self.world.strategy.save_every
        began = time.monotonic()
        while self.step < self.total:
            history.losses.append(self.train_step())
            bar.update(self.how.batch_size)
            ended = self.step % self.per_epoch == 0
            if ended:
                self.end_epoch(float(np.mean(history.losses)))
                bar.set_postfix(history.news())
            if ended or every and self.step % every == 0:
                history.seconds += time.monotonic() - began
                began = time.monotonic()
                self.save()

    def end_epoch(self, loss: float) -> None:
        """Enter the epoch's mean loss and what its averaged module measures into the history."""
        history, epoch = self.history, len(self.history.train) + 1
        with self.world.compute():
            validation, measures, distance = self.measure()
        if self.referee is not None:
            distance = None
            if self.referee.due(epoch, self.how.epochs):
                played = self._referee(self.referee)
                measures, distance = {**measures, **played}, shortfall(played)
        history.losses.clear()
        history.images = self.feed.told() if self.feed else {}
        history.train.append(loss)
        history.validation.append(validation)
        history.measures.append(measures)
        if distance is not None and distance < self.best['distance']:
            history.best_epoch = epoch
            self.best = {'distance': distance, 'epoch': epoch,
                         'weights': copy.deepcopy(self.ema.module.state_dict())}

    def _referee(self, referee: Referee) -> dict[str, float]:
        """Let the process that leads evaluate the averaged module, and tell the others."""
        module = self.gathered()
        return self.world.told(referee.measure(module) if self.world.leads else {})

    def gathered(self) -> nn.Module:
        """Return the averaged module; where it is sharded, all of it in the leading process."""
        if not self.world.strategy.shard:
            return self.ema.module
        return whole(self.ema.module, self.outline, self.world.leads)

    def measure(self) -> tuple[float, dict[str, float], float | None]:
        """Return the averaged module's validation, what else was measured, and its distance.

        The module of the least distance is kept; None where validation chooses none.
        """
        return self.objective.validate(self.ema.module), {}, None

    def result(self) -> nn.Module:
        """Return the module that the run amounts to: the averaged one, of the best epoch."""
        if self.best['weights']:
            self.ema.module.load_state_dict(self.best['weights'])
        return self.gathered()

