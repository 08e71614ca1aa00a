"""Which windows are worth learning: those that bring success nearer than was to be expected.

People and searches hesitate, and a policy that learns all they did hesitates as they do. A network
learns how soon success follows an observation; a window counts where what was done next shortened
the rest by more than the time it took: behaviour cloning filtered by an estimated advantage, as in
Wang et al. 2020 (CRR, eq. 3), with Monte-Carlo returns. Of episodes that do not tell whether they
met success, as human demonstrations often do not, all is learned but the end, in which they stop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from diffusion_policy_rt.errors import DataError
from diffusion_policy_rt.train.conditions import noised
from diffusion_policy_rt.train.data import Dataset
from diffusion_policy_rt.train.recipe import Selection
from diffusion_policy_rt.train.trainer import Objective
from diffusion_policy_rt.train.windows import per_row, split_episodes

SUCCESS = 'success'
"""The stream that tells where an episode met success."""
LEAST_VALUE = 1e-6
"""Values are kept above it before their logarithm is taken."""


class Outcomes(NamedTuple):
    """Where the episodes of a data set lead, told for each of its rows."""

    met: np.ndarray
    """bool [N]: whether the row's episode meets success."""
    left: np.ndarray
    """int64 [N]: rows until it first does, below 0 afterwards; of other episodes, to the last."""


def outcomes(data: Dataset) -> Outcomes:
    """Return what the stream `SUCCESS` tells; episodes without it, and without one, meet none.

    One that tells it in all of its rows tells that success was met, but not when: at its end.
    """
    ends = data.episode_ends
    begins = np.append(0, ends[:-1])
    told = data.streams.get(SUCCESS, np.zeros((ends[-1], 1)))[:, 0] > 0
    rows = np.append(np.flatnonzero(told), ends[-1])
    first = rows[np.searchsorted(rows, begins)]
    met, throughout = first < ends, np.logical_and.reduceat(told, begins)
    last = np.where(met & ~throughout, first, ends - 1)
    return Outcomes(per_row(met, ends), per_row(last, ends) - np.arange(ends[-1]))


class ValueNetwork(nn.Module):
    """What one instant shows, [B, L], to the logit of the discounted success that follows, [B].

    One instant does not tell whether the robot is about to move, which would excuse a halt.

    Products of linear features come first, for the reason that MLPDenoiser gives.
    """

    def __init__(self, seen_dim: int, width: int = 256) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(seen_dim, width), nn.Linear(seen_dim, width)
        self.layers = nn.Sequential(
            nn.Linear(width + seen_dim, width), nn.Mish(), nn.Linear(width, width), nn.Mish(),
            nn.Linear(width, width), nn.Mish(), nn.Linear(width, 1))

    def forward(self, seen: Tensor) -> Tensor:
        pairs = self.left(seen) * self.right(seen)
        return self.layers(torch.cat((pairs, seen), dim=-1)).squeeze(-1)


class ValueObjective:
    """Teach how soon success follows: discount^k, k control steps before it."""

    def __init__(self, observed: np.ndarray, episode_ends: np.ndarray, found: Outcomes,
                 noise: np.ndarray, how: Selection, device: torch.device) -> None:
        """`observed` [N, L] has one row per control step; DataError where no success is met."""
        self.module: nn.Module = ValueNetwork(observed.shape[1])
        self.noise = noise.astype(np.float32)
        if not found.met.any():
            raise DataError('no episode tells that it met success, by which `select` learns; '
                            'add a data set of dprt expert, or one with next.success, or take '
                            '`select` out of the recipe')
        self.observed = torch.from_numpy(observed).to(device)
        values = how.discount ** np.maximum(found.left, 0)
        self.targets = torch.from_numpy(values.astype(np.float32)).to(device)
        held_out = split_episodes(episode_ends, 0.05, 0)
        self.train_rows = np.flatnonzero(found.met & ~held_out)
        self.held_out = np.flatnonzero(found.met & held_out)

    def _errors(self, module: nn.Module, index: Tensor, observed: Tensor) -> Tensor:
        return nn.functional.binary_cross_entropy_with_logits(module(observed),
                                                              self.targets[index])

    def loss(self, module: nn.Module, rows: np.ndarray, rng: np.random.Generator) -> Tensor:
        """Return the cross-entropy; its least is the entropy of the outcomes, not zero."""
        index = torch.from_numpy(rows).to(self.observed.device)
        return self._errors(module, index, noised(self.observed[index], self.noise, rng))

    @torch.no_grad()
    def validate(self, module: nn.Module) -> float:
        """Return the cross-entropy on the held-out episodes."""
        if not len(self.held_out):
            return float('nan')
        index = torch.from_numpy(self.held_out).to(self.observed.device)
        return self._errors(module, index, self.observed[index]).item()


@torch.no_grad()
def steps_to_success(module: nn.Module, observed: np.ndarray, discount: float) -> np.ndarray:
    """Return how many control steps success is away, by `module`: float64 [N]."""
    device = next(module.parameters()).device
    values = torch.cat([module(part.to(device)).sigmoid().cpu()
                        for part in torch.from_numpy(observed).split(8192)])
    return np.log(np.maximum(values.numpy().astype(float), LEAST_VALUE)) / np.log(discount)


def gained_steps(steps: np.ndarray, found: Outcomes, ahead: int) -> np.ndarray:
    """Return by how much the next `ahead` steps shortened the way to success, float64 [N].

    Zero is what was to be expected. No further is looked ahead than to success, or to the end of
    an episode; where success was met there, it is no longer to be expected but has come.
    """
    left = np.maximum(found.left, 0)
    passed = np.minimum(ahead, left)
    came = found.met & (left <= ahead)
    return steps - np.where(came, 0, steps[np.arange(len(steps)) + passed]) - passed


def chosen_windows(how: Selection | None, observed: np.ndarray, data: Dataset, noise: np.ndarray,
                   n_obs: int, device: torch.device,
                   fit: Callable[[Objective], nn.Module]) -> np.ndarray:
    """Return which windows are learned from, bool [W]: all where nothing is selected.

    What follows success is: it shows what to do then. `fit` trains an objective; `observed`
    [W, C] are the windows' conditions, `n_obs` instants each, one window per control step.
    """
    if how is None:
        return np.ones(len(observed), bool)
    newest = observed.shape[1] // n_obs
    seen, found = np.ascontiguousarray(observed[:, -newest:]), outcomes(data)
    module = fit(ValueObjective(seen, data.episode_ends, found, noise[-newest:], how, device))
    steps = steps_to_success(module.eval(), seen, how.discount)
    nearer = gained_steps(steps, found, how.ahead) > how.least
    return np.where(found.met, nearer | (found.left < 0), found.left >= how.ahead)
