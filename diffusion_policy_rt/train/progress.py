"""Which windows are worth learning: those that bring success nearer than was to be expected.

People and searches hesitate, and a policy that learns all they did hesitates as they do. A network
learns how soon success follows an observation; a window counts where what was done next shortened
the rest by more than the time it took: behaviour cloning filtered by an estimated advantage, as in
Wang et al. 2020 (CRR, eq. 3), with Monte-Carlo returns. Of episodes that do not tell whether they
met success, as human demonstrations often do not, all is learned but the end, in which they stop.
"""

from __future__ import annotations

from collections.abc import Callable

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

    def __init__(self, observed: np.ndarray, episode_ends: np.ndarray, success: np.ndarray,
                 noise: np.ndarray, how: Selection, device: torch.device) -> None:
        """`observed` [N, L], one row per control step; `success` [N] is above 0 where it is met.

        DataError where no episode ends in success.
        """
        self.module: nn.Module = ValueNetwork(observed.shape[1])
        self.noise = noise.astype(np.float32)
        left = rows_left(episode_ends)
        met = was_met(success, episode_ends)
        known = per_row(met, episode_ends)
        if not met.any():
            raise DataError('no episode tells that it ended in success, by which `select` learns; '
                            'add a data set of dprt expert, or one with next.success, or take '
                            '`select` out of the recipe')
        self.observed = torch.from_numpy(observed).to(device)
        self.targets = torch.from_numpy((how.discount ** left).astype(np.float32)).to(device)
        held_out = split_episodes(episode_ends, 0.05, 0)
        self.train_rows = np.flatnonzero(known & ~held_out)
        self.held_out = np.flatnonzero(known & held_out)

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


def was_met(success: np.ndarray, episode_ends: np.ndarray) -> np.ndarray:
    """Return which episodes ended in success, bool [E]; `success` [N] is above 0 there."""
    return np.asarray(success[episode_ends - 1] > 0)


def rows_left(episode_ends: np.ndarray) -> np.ndarray:
    """Return how many rows of its episode follow each row, int64 [N]; 0 at the last."""
    return per_row(episode_ends, episode_ends) - 1 - np.arange(episode_ends[-1])


@torch.no_grad()
def steps_to_success(module: nn.Module, observed: np.ndarray, discount: float) -> np.ndarray:
    """Return how many control steps success is away, by `module`: float64 [N]."""
    device = next(module.parameters()).device
    values = torch.cat([module(part.to(device)).sigmoid().cpu()
                        for part in torch.from_numpy(observed).split(8192)])
    return np.log(np.maximum(values.numpy().astype(float), LEAST_VALUE)) / np.log(discount)


def gained_steps(steps: np.ndarray, episode_ends: np.ndarray, met: np.ndarray,
                 ahead: int) -> np.ndarray:
    """Return by how much the next `ahead` steps shortened the way to success, float64 [N].

    Zero is what was to be expected. Near the end of an episode fewer steps are looked ahead; where
    success was `met` [E] there, it is no longer to be expected but has come.
    """
    left = rows_left(episode_ends)
    later = np.arange(len(steps)) + np.minimum(ahead, left)
    came = (left <= ahead) & per_row(met, episode_ends)
    return steps - np.where(came, 0, steps[later]) - np.minimum(ahead, left)


def tells_success(data: Dataset) -> bool:
    """Whether an episode of the data tells that it ended in success."""
    return SUCCESS in data.streams and bool(was_met(data.streams[SUCCESS][:, 0],
                                                    data.episode_ends).any())


def chosen_windows(how: Selection | None, observed: np.ndarray, data: Dataset, noise: np.ndarray,
                   n_obs: int, device: torch.device,
                   fit: Callable[[Objective], nn.Module]) -> np.ndarray:
    """Return which windows are learned from, bool [W]: all where nothing is selected.

    `fit` trains an objective; `observed` [W, C] are the windows' conditions, `n_obs` instants
    each, one window per control step.
    """
    if how is None:
        return np.ones(len(observed), bool)
    newest = observed.shape[1] // n_obs
    seen, ends = np.ascontiguousarray(observed[:, -newest:]), data.episode_ends
    success = data.streams.get(SUCCESS, np.zeros((len(observed), 1), np.float32))[:, 0]
    module = fit(ValueObjective(seen, ends, success, noise[-newest:], how, device))
    steps = steps_to_success(module.eval(), seen, how.discount)
    met = was_met(success, ends)
    gained = gained_steps(steps, ends, met, how.ahead) > how.least
    return np.where(per_row(met, ends), gained, rows_left(ends) >= how.ahead)
