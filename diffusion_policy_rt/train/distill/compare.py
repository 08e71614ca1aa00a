"""How far a student's chunks are from its teacher's, as distributions under equal conditions."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from diffusion_policy_rt.spec import PolicySpec
from diffusion_policy_rt.train.distill.denoiser import Denoiser, rollout
from diffusion_policy_rt.train.distributed import World
from diffusion_policy_rt.train.share import BatchShare


def energy_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Return 2 E|x - y| - E|x - x'| - E|y - y'| of samples [M, K, D], averaged over M sets.

    Szekely & Rizzo 2013, without the pairs of a sample with itself: zero in the mean for equal
    distributions, so it may come out slightly below. Distances are divided by sqrt(D).
    """
    x, y = (torch.from_numpy(np.asarray(v, float)) for v in (a, b))
    scale = x.shape[-1] ** 0.5

    def within(v: Tensor) -> Tensor:
        count = v.shape[1]
        return torch.cdist(v, v).sum((1, 2)) / (count * (count - 1))

    between = torch.cdist(x, y).mean((1, 2))
    return float((2 * between - within(x) - within(y)).mean() / scale)


def spread_ratio(a: np.ndarray, b: np.ndarray) -> float:
    """Return the mean over D of a's deviation over b's, within each of M sets [M, K, D]."""
    deviations = [np.sqrt(v.var(1, ddof=1).mean(0)) for v in (a, b)]
    return float((deviations[0] / np.maximum(deviations[1], 1e-9)).mean())


class Comparison:
    """The teacher's samples under some conditions, and what students are measured by them.

    Samples are drawn in parts of few chunks, which the processes share: what is compared takes no
    more memory than a step of training, and is the same in however many processes.
    """

    def __init__(self, teacher: Denoiser, spec: PolicySpec, conditions: Tensor, world: World,
                 most_chunks: int, samples: int = 16) -> None:
        """`conditions` [M, C]; the teacher samples by its most steps up to 16.

        No process draws more than `most_chunks` at a time, or one of each condition.
        """
        self.world, self.samples = world, samples
        self.shape = (spec.horizon, len(spec.action))
        least = max(world.size, len(conditions) * samples / most_chunks)
        self.parts = next(n for n in range(1, samples + 1)
                          if samples % n == 0 and n >= min(least, samples))
        self.cond = conditions.repeat_interleave(samples // self.parts, 0)
        most = max((n for n in spec.steps if n <= 16), default=min(spec.steps))
        self.expected = self._samples(teacher, spec, most, 0)

    def _samples(self, denoiser: Denoiser, spec: PolicySpec, steps: int,
                 seed: int) -> np.ndarray:
        """Return samples [M, K, D]; called by all processes.

        A sharded network must be called as often by each: where parts are left over for some,
        the others draw one again.
        """
        world, rows = self.world, len(self.cond)
        turns = -(-self.parts // world.size)
        own = [self._part(denoiser, spec, steps, seed, part % self.parts)
               for part in range(world.rank, turns * world.size, world.size)]
        dealt = world.joined(np.concatenate(own), [turns * rows] * world.size)
        parts = dealt.reshape(world.size, turns, rows, -1).swapaxes(0, 1).reshape(
            turns * world.size, rows, -1)[:self.parts]
        return parts.swapaxes(0, 1).reshape(-1, self.samples, dealt.shape[-1])

    def _part(self, denoiser: Denoiser, spec: PolicySpec, steps: int, seed: int,
              part: int) -> np.ndarray:
        """Return every `parts`-th of all samples, from the `part`-th on, [M K / parts, D]."""
        noise = BatchShare((seed,), part, self.parts).standard_normal(
            (len(self.cond), *self.shape))
        return rollout(denoiser, spec, steps, noise, self.cond,
                       BatchShare((0,), part, self.parts)).reshape(len(noise), -1)

    def measure(self, student: Denoiser, spec: PolicySpec) -> dict[str, float]:
        """Return `energy_K` and `spread_K` for every step count K that the student serves."""
        measures = {}
        for steps in spec.steps:
            made = self._samples(student, spec, steps, 1)
            measures[f'energy_{steps}'] = energy_distance(made, self.expected)
            measures[f'spread_{steps}'] = spread_ratio(made, self.expected)
        return measures
