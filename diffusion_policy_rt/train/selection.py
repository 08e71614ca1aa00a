"""Closed-loop evaluation while training: which checkpoint is kept, by what it does.

The simulator drives a temporary bundle by the very code of `dprt eval`, on seeds of its own.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from diffusion_policy_rt.model.policy import Policy
from diffusion_policy_rt.replay.evaluate import (
    Evaluation, default_steps, evaluate, outcome, summarise)
from diffusion_policy_rt.sim.tasks import task_of
from diffusion_policy_rt.spec import PolicySpec
from diffusion_policy_rt.train.export import export_bundle

FIRST_SEED = 300_000
"""First seed of the selection: none that a result is measured on (100000), or tuned (200000)."""


@dataclass(frozen=True)
class ClosedLoop:
    """How often, and on what, a policy in training is evaluated."""

    every: int
    """Epochs from one evaluation to the next; the last epoch is always evaluated."""
    episodes: int = 40
    steps: tuple[int, ...] = ()
    """Network calls per plan, an evaluation each; none takes the most served up to 8."""
    workers: int = 1

    @property
    def key(self) -> list[Any]:
        """What the choice of a checkpoint depends on."""
        return [self.every, self.episodes, list(self.steps)]

    def served(self, spec: PolicySpec) -> tuple[int, ...]:
        """Return the step counts to evaluate; SpecError for another task or one not served."""
        task_of(spec, f'--eval-every: {spec.name}')
        for steps in self.steps:
            spec.schedule(steps)
        return self.steps or (default_steps(spec.steps),)

    def referee(self, policy: Policy, model: Mapping[str, Any]) -> ClosedLoopReferee:
        """Return the referee of one training."""
        return ClosedLoopReferee(self, policy, model)


class ClosedLoopReferee:
    """Evaluates policies in training, or their denoisers."""

    def __init__(self, how: ClosedLoop, policy: Policy, model: Mapping[str, Any]) -> None:
        """`policy` has whatever is not trained; `model` is its networks' configuration."""
        self._how, self._policy, self._model = how, policy, model
        self._steps = how.served(policy.spec)

    def due(self, epoch: int, epochs: int) -> bool:
        """Whether the module is evaluated at the end of `epoch`, counted from 1."""
        return epoch % self._how.every == 0 or epoch == epochs

    def measure(self, module: nn.Module) -> dict[str, float]:
        """Return `score_K` and `success_K` for each step count K."""
        threads, measures = torch.get_num_threads(), {}
        try:  # the export's check of the torch engine sets its own number of threads
            with tempfile.TemporaryDirectory() as folder:
                policy = completed(self._policy, module)
                export_bundle(policy, self._model, Path(folder) / 'bundle', {})
                for steps in self._steps:
                    found = self._play(str(Path(folder) / 'bundle'), steps)
                    measures[f'score_{steps}'] = found['mean_max_coverage']
                    measures[f'success_{steps}'] = found['success_rate']
        finally:
            torch.set_num_threads(threads)
        return measures

    def _play(self, folder: str, steps: int) -> dict[str, Any]:
        seeds = range(FIRST_SEED, FIRST_SEED + self._how.episodes)
        return summarise([outcome(e) for e in evaluate(Evaluation(folder, steps), seeds,
                                                       self._how.workers)])


def completed(policy: Policy, module: nn.Module) -> Policy:
    """Return a copy of `module` where it is a policy, else of `policy` with it as the denoiser."""
    if isinstance(module, Policy):
        return copy.deepcopy(module)
    # its own denoiser may be spread over processes, and such a one cannot be copied
    return copy.deepcopy(policy, {id(policy.denoiser): copy.deepcopy(module)})
