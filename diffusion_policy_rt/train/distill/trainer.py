"""The training loop with a second network: student and critic, and the best student kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

from diffusion_policy_rt.train.distill.methods import Loss
from diffusion_policy_rt.train.distributed import World
from diffusion_policy_rt.train.recipe import Optimisation
from diffusion_policy_rt.train.trainer import Referee, Trainer


class Task(Protocol):
    """What is distilled: a student, batches, and what its chunks are compared with."""

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
            self.loss.critic.to(world.device)
            self.critic_optimiser = self._optimiser(self.loss.critic)

    def train_step(self) -> float:
        """Move the student, or its critic; return the loss of the one that moved."""
        rng, rate = self.rng(), self.rate_at(self.step)
        batch = self.task.batch(self.rows_at(self.step), rng)
        every = self.loss.how.student_every if self.critic_optimiser else 1
        if self.critic_optimiser and self.step % every:
            moved = self._critic_step(batch, rate, rng)
        else:
            self.module.train()
            moved = self.loss.student_loss(*batch, rng)
            self.descend(moved, self.module, self.optimiser, rate)
            self.ema.update(self.module, self.step // every)
        self.step += 1
        return moved.item()

    def _critic_step(self, batch: tuple[Tensor, Tensor], rate: float,
                     rng: np.random.Generator) -> Tensor:
        loss, optimiser = cast(Any, self.loss), cast(torch.optim.Optimizer, self.critic_optimiser)
        moved: Tensor = loss.critic_loss(*batch, rng)
        self.descend(moved, loss.critic, optimiser, rate * loss.how.critic_rate)
        return moved

    def measure(self) -> tuple[float, dict[str, float], float | None]:
        """Compare the averaged student with the teacher, over all step counts."""
        measures = self.task.measure(self.ema.module)
        distance = float(np.mean([v for k, v in measures.items() if k.startswith('energy')]))
        return distance, measures, distance

    def state(self) -> dict[str, Any]:
        """Return everything that the rest of the run depends on."""
        if not self.critic_optimiser or self.loss.critic is None:
            return super().state()
        return super().state() | {'critic': self.loss.critic.state_dict(),
                                  'critic_optimiser': self.critic_optimiser.state_dict()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what `state` returned."""
        super().restore(state)
        if self.critic_optimiser and self.loss.critic is not None:
            self.loss.critic.load_state_dict(state['critic'])
            self.critic_optimiser.load_state_dict(state['critic_optimiser'])
