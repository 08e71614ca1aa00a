"""The training loop: batches, optimiser, moving average, checkpoints that resume the same run."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from diffusion_policy_rt.errors import DprtError
from diffusion_policy_rt.files import whole_file
from diffusion_policy_rt.train import shards
from diffusion_policy_rt.train.distributed import World
from diffusion_policy_rt.train.ema import EMA
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


@dataclass
class History:
    """The curve: one entry per epoch."""

    train: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)
    measures: list[dict[str, float]] = field(default_factory=list)
    """What else was measured at the end of each epoch, by name."""
    seconds: float = 0.0
    """Time spent training, over all resumptions."""
    best_epoch: int = 0
    """The epoch whose module was kept, counted from 1; 0 where none was chosen: the last."""


class Referee(Protocol):
    """Evaluates a module in training, so that the best can be chosen."""

    def due(self, epoch: int, epochs: int) -> bool:
        """Whether the module is evaluated at the end of this epoch."""

    def measure(self, module: nn.Module) -> dict[str, float]:
        """Return what was measured; the scores are called `score_...`, 1 at best."""


class Trainer:
    """Fits an objective.

    Every random choice of step k comes from (seed, k), so that a run that was killed and resumed
    is the run that was not, in however many processes.
    """

    def __init__(self, objective: Objective, how: Optimisation, world: World, seed: int,
                 checkpoint: Path, fingerprint: str, referee: Referee | None = None) -> None:
        self.objective, self.how, self.world, self.seed = objective, how, world, seed
        self.checkpoint, self.fingerprint = checkpoint, fingerprint
        if how.batch_size % world.parts:
            raise DprtError(f'batch_size {how.batch_size} is not divisible by the {world.parts} '
                            'parts that processes and --accumulate take it in')
        self.module = objective.module
        self._place(how.ema_decay)
        self.referee, self.history = referee, History()
        self.best: dict[str, Any] = {'distance': math.inf, 'epoch': 0, 'weights': {}}
        self.step = 0
        self.per_epoch = max(1, len(objective.train_rows) // how.batch_size)
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
        epoch, batch = divmod(step, self.per_epoch)
        order = np.random.default_rng((self.seed, epoch)).permutation(self.objective.train_rows)
        rows = order[batch * self.how.batch_size:(batch + 1) * self.how.batch_size]
        return rows[self._index(part)::self.world.parts]

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
                            f'checkpoint is {self.checkpoint}; lower the learning rate')
        optimiser.step()
        return total

    def _gradients(self, loss: Callable[[np.ndarray, np.random.Generator], Tensor],
                   module: nn.Module) -> float:
        """Sum up the gradients of all parts; return this process's mean loss."""
        parts, total = self.world.strategy.accumulate, 0.0
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

    @property
    def shards(self) -> Path:
        """Where the checkpoints of sharded runs are."""
        return self.checkpoint.with_suffix('.shards')

    def save(self) -> None:
        """Write the checkpoint: whole, or not at all."""
        if self.world.strategy.shard:
            shards.save(self.shards, self.step, self.networks(), self.best['weights'],
                        self.facts(), self.world.leads)
        elif self.world.leads:
            self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(self.checkpoint) as partial:
                torch.save(self.state(), partial)

    def facts(self) -> dict[str, Any]:
        """Return what the rest of the run depends on beside its networks and the best weights."""
        return {'step': self.step, 'train': self.history.train,
                'validation': self.history.validation, 'seconds': self.history.seconds,
                'fingerprint': self.fingerprint, 'measures': self.history.measures,
                'best': {**self.best, 'weights': bool(self.best['weights'])}}

    def state(self) -> dict[str, Any]:
        """Return everything that the rest of the run depends on."""
        states: dict[str, Any] = {}
        for name, (network, optimiser) in self.networks().items():
            states[name] = network.state_dict()
            if optimiser is not None:
                states[optimiser_key(name)] = optimiser.state_dict()
        return self.facts() | {'best': self.best} | states

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what `state` returned."""
        for name, (network, optimiser) in self.networks().items():
            network.load_state_dict(state[name])
            if optimiser is not None:
                optimiser.load_state_dict(state[optimiser_key(name)])
        # a checkpoint of a run that chose none lacks it
        self._take_up(state, state.get('best', self.best))

    def _take_up(self, facts: Mapping[str, Any], best: dict[str, Any]) -> None:
        self.step, self.best = facts['step'], best
        self.history = History(
            train=list(facts['train']), validation=list(facts['validation']),
            measures=list(facts.get('measures', ())), seconds=facts['seconds'],
            best_epoch=best['epoch'])

    def resume(self) -> bool:
        """Take up the checkpoint if there is one; DprtError if it belongs to another run."""
        if self.world.strategy.shard:
            return self._resume_shards()
        if not self.checkpoint.is_file():
            return False
        state: Mapping[str, Any] = torch.load(
            self.checkpoint, map_location=self.world.device, weights_only=True)
        self._check(state, self.checkpoint)
        self.restore(state)
        return True

    def _resume_shards(self) -> bool:
        folder = shards.newest(self.shards)
        if folder is None:
            return False
        facts = shards.read_facts(folder)
        self._check(facts, folder)
        kept = shards.load(folder, self.networks(), facts['best']['weights'])
        self._take_up(facts, {**facts['best'], 'weights': kept})
        return True

    def _check(self, state: Mapping[str, Any], path: Path) -> None:
        if state['fingerprint'] != self.fingerprint:
            raise DprtError(f'{path} belongs to another recipe, seed or data set, '
                            'or to another --eval-every; choose another --out or remove it')

    def run(self, title: str) -> nn.Module:
        """Train to the end, from the checkpoint if there is one; return the averaged module."""
        self.resume()
        bar = tqdm(total=self.total * self.how.batch_size, initial=self.step * self.how.batch_size,
                   desc=title, unit='sample', unit_scale=True, disable=not self.world.leads)
        again = 'start the same command again: it goes on from its last checkpoint'
        # closed before an error is told, or it would draw over it
        with self.world.together(again), bar:
            self._epochs(bar)
            return self.result()

    def _epochs(self, bar: tqdm) -> None:
        losses: list[float] = []
        began = time.monotonic()
        while self.step < self.total:
            losses.append(self.train_step())
            bar.update(self.how.batch_size)
            if self.step % self.per_epoch == 0:
                self.end_epoch(float(np.mean(losses)))
                bar.set_postfix(self.news())
                losses.clear()
                self.history.seconds += time.monotonic() - began
                began = time.monotonic()
                self.save()

    def news(self) -> dict[str, str]:
        """Return the last epoch's loss and validation, and the newest scores, to be shown."""
        history = self.history
        scores: dict[str, float] = next(
            ({k: v for k, v in epoch.items() if k.startswith('score')}
             for epoch in reversed(history.measures) if any(k.startswith('score') for k in epoch)),
            {})
        return {'loss': f'{history.train[-1]:.4f}', 'validation': f'{history.validation[-1]:.4f}',
                **{name: f'{score:.3f}' for name, score in scores.items()}}

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


def optimiser_key(name: str) -> str:
    """Return the name of a network's optimiser in a checkpoint."""
    return 'optimiser' if name == 'module' else f'{name}_optimiser'


def shortfall(measures: Mapping[str, float]) -> float:
    """Return how far the mean of the scores is from 1."""
    scores = [value for name, value in measures.items() if name.startswith('score')]
    return 1 - float(np.mean(scores))
