"""Which residual branches may stand between denoising steps: the search of BAC.

Ji et al. 2025 ("Block-wise adaptive caching for accelerating diffusion policy"): for each branch
the steps at which it is computed are those that maximise the summed cosine similarity between
what it would give at each step and what stands there; errors then flow down the network, so the
branches that drift most are computed whenever one below them is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from diffusion_policy_rt.errors import DataError
from diffusion_policy_rt.model.masked import MaskedStep
from diffusion_policy_rt.model.policy import Policy
from diffusion_policy_rt.model.split import split
from diffusion_policy_rt.runtime.blocks import BlockSchedule
from diffusion_policy_rt.runtime.frame import to_input
from diffusion_policy_rt.runtime.observation import observed
from diffusion_policy_rt.runtime.ports import Encoder
from diffusion_policy_rt.runtime.precond import denoise
from diffusion_policy_rt.runtime.prefix import PrefixLayout
from diffusion_policy_rt.runtime.sampler import sample
from diffusion_policy_rt.spec import PolicySpec


def conditions(spec: PolicySpec, engine: Encoder,
               observations: Sequence[Mapping[str, np.ndarray]]) -> np.ndarray:
    """Return what plans from observations are told, float32 [N, C], nothing being committed."""
    tail = PrefixLayout.of(spec).tail(np.zeros((0, len(spec.action))))
    return np.stack([np.concatenate([observed(spec, {
        c.name: [engine.encode(c.name, to_input(rgb, c)) for rgb in arrays[c.name]]
        for c in spec.cameras}, arrays['state'].astype(float)), tail]) for arrays in observations])


class Rehearsal:
    """Plans of a torch policy under conditions [N, C], from the same noise by any schedule."""

    def __init__(self, policy: Policy, conds: np.ndarray, steps: int, seed: int) -> None:
        """Take how many calls a plan has, and what noise is drawn from."""
        self.spec, self._parts = policy.spec, split(policy.denoiser)
        self._conds, self._steps, self._seed = conds, steps, seed
        self.all_computed = ['1' * self._parts.step.branches] * steps
        """The schedule without any caching, as `play` takes it."""

    @torch.inference_mode()
    def play(self, fresh: Sequence[str]) -> tuple[np.ndarray, list[np.ndarray]]:
        """Return the normalised chunks [N, H, A] and what each branch gave where computed.

        That is [N, k, D] per branch. `fresh` is `BlockSchedule`'s.
        """
        spec, conds = self.spec, self._conds
        told: list[list[torch.Tensor]] = [[] for _ in fresh[0]]
        calls = iter(fresh)
        rng = np.random.default_rng(self._seed)
        noise = rng.standard_normal((len(conds), spec.horizon, len(spec.action)))

        def network(x: np.ndarray, c_noise: float, _: np.ndarray, *c_stop: float) -> np.ndarray:
            return self._call(next(calls), told, x, c_noise, *c_stop)

        chunks = sample(
            lambda x, sigma, stop: denoise(network, spec.precond, x, sigma, conds, stop),
            spec.schedule(self._steps), noise, spec.precond.sigma_data, spec.clip, rng)
        return chunks, [np.stack([made.flatten(1).numpy() for made in branch], axis=1)
                        for branch in told]

    def _call(self, fresh: str, told: list[list[torch.Tensor]], x: np.ndarray,
              *levels: float) -> np.ndarray:
        parts, cond = self._parts, torch.from_numpy(self._conds)
        kept = [branch[-1] for branch, bit in zip(told, fresh) if bit == '0']
        output, *made = MaskedStep(parts.step, fresh)(
            torch.from_numpy(x), parts.level(*(torch.full((len(x),), level) for level in levels)),
            parts.observed(cond), *kept)
        for branch, new in zip([b for b, bit in zip(told, fresh) if bit == '1'], made):
            branch.append(new)
        return output.numpy()


def similarity(given: np.ndarray) -> np.ndarray:
    """Return the mean cosine [K, K] between what a branch [N, K, D] gives at two calls."""
    unit = given / np.maximum(np.linalg.norm(given, axis=-1, keepdims=True), 1e-12)
    return np.einsum('nid,njd->ij', unit, unit) / len(given)


def drift(given: np.ndarray) -> float:
    """Return how much what a branch gives, [N, K, D], changes from call to call."""
    return float(np.abs(np.diff(given, axis=1)).mean())


def best_updates(similar: np.ndarray, budget: int) -> list[int]:
    """Return the calls, the first among them, at which to compute a branch: `budget` of them.

    They maximise the sum over all calls of the similarity [K, K] to the last one computed, by
    dynamic programming over the first j calls and the number s of computed ones.
    """
    calls = len(similar)
    gain = np.concatenate([np.zeros((calls, 1)), np.cumsum(np.triu(similar), axis=1)], axis=1)
    best = np.full((budget + 1, calls + 1), -np.inf)
    last, best[0, 0] = np.zeros((budget + 1, calls + 1), int), 0.0
    for s in range(1, budget + 1):
        for j in range(1, calls + 1):
            values = best[s - 1, :j] + gain[:j, j]
            last[s, j] = int(values.argmax())
            best[s, j] = values[last[s, j]]
    chosen, j = [], calls
    for s in range(budget, 0, -1):
        j = int(last[s, j])
        chosen.append(j)
    return chosen[::-1]


def find(given: Sequence[np.ndarray], sigmas: tuple[float, ...], budget: int,
         union: int = 0) -> BlockSchedule:
    """Return the schedule by which each branch is computed in `budget` calls.

    The `union` branches that drift most are computed whenever one behind them is, as well.
    """
    calls = len(sigmas)
    if not 1 <= budget <= calls:
        raise DataError(f'a budget of {budget} of {calls} calls; give 1 to {calls}')
    updates = [set(best_updates(similarity(branch), budget)) for branch in given]
    drifts = list(map(drift, given))
    for branch in sorted(np.argsort(drifts)[::-1][:union], reverse=True):
        updates[branch] |= set().union(*updates[branch + 1:])
    return BlockSchedule(sigmas, tuple(
        ''.join('01'[call in steps] for steps in updates) for call in range(calls)))
