"""The training loop with a second network: student and critic, and the best student kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

from diffusion_policy_rt.train.distill.networks import Loss
from diffusion_policy_rt.train.distributed import World
from diffusion_policy_rt.train.recipe import Optimisation
from diffusion_policy_rt.train.shards import Network
from diffusion_policy_rt.train.history import Referee
from diffusion_policy_rt.train.trainer import Trainer


class Task(Protocol):
    """What is distilled: a student, batches, and what its chunks are compared with.

    The teacher is where it is to be: it was asked already what students are compared with.
    """

    module: nn.Module
    train_rows: np.ndarray

    def loss_of(self, student: nn.Module, average: nn.Module) -> Loss:
        """Put the loss together for this student and its moving average."""

    def batch(self, rows: np.ndarray, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Return the chunks [B, H, A] and conditions [B, C] of these rows."""

    def measure(self, module: nn.Module) -> dict[str, float]:
        """Measure a student; `energy_K` per step count K."""


class DistillTrainer(Trainer):
    """Trains a student, and in between its critic where the method has one.

    The result is the averaged student of the epoch whose chunks were nearest to the teacher's, or
    of the one that the referee found best.
    """

    def __init__(self, task: Task, how: Optimisation, world: World, seed: int, checkpoint: Path,
                 fingerprint: str, referee: Referee | None = None) -> None:
        super().__init__(cast(Any, task), how, world, seed, checkpoint, fingerprint, referee)
        self.task = task
        self.loss = task.loss_of(self.module, self.ema.module)
        self.critic_optimiser: torch.optim.Optimizer | None = None
        if self.loss.critic is not None:
            world.place(self.loss.critic)
            self.critic_optimiser = self._optimiser(self.loss.critic)

    def train_step(self) -> float:
        """Move the student, or its critic; return the loss of the one that moved."""
        rate, loss = self.rate_at(self.step), cast(Any, self.loss)
        every = loss.how.student_every if self.critic_optimiser else 1
        if self.critic_optimiser is not None and self.step % every:
            moved = self.descend(self._of_batch(loss.critic_loss), loss.critic,
                                 self.critic_optimiser, rate * loss.how.critic_rate)
        else:
            self.module.train()
            moved = self.descend(self._of_batch(loss.student_loss), self.module,
                                 self.optimiser, rate)
            self.ema.update(self.module, self.step // every)
        self.step += 1
        return moved

    def _of_batch(self, loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """Return the loss as one of rows."""
        return lambda rows, rng: loss(*self.task.batch(rows, rng), rng)

    def measure(self) -> tuple[float, dict[str, float], float | None]:
        """Compare the averaged student with the teacher, over all step counts."""
        measures = self.task.measure(self.ema.module)
        distance = float(np.mean([v for k, v in measures.items() if k.startswith('energy')]))
        return distance, measures, distance

    def networks(self) -> dict[str, Network]:
        """Return the networks that a checkpoint holds, with their optimisers."""
        made = super().networks()
        if self.critic_optimiser and self.loss.critic is not None:
            made['critic'] = self.loss.critic, self.critic_optimiser
        return made
