"""How near one policy's chunks are to another's, and how they move."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from diffusion_policy_rt.engines.bundle import Bundle
from diffusion_policy_rt.replay.infer import infer
from diffusion_policy_rt.runtime.blocks import BlockSchedule
from diffusion_policy_rt.runtime.ports import Engine
from diffusion_policy_rt.spec import PolicySpec

MOST_STEPS = 8
"""More steps per plan than these are a teacher's, not a robot's."""
STILL = 1e-3
"""Moves below this share of the range have no direction that could flip."""


def draw_chunks(spec: PolicySpec, engine: Engine,
                observations: Sequence[Mapping[str, np.ndarray]], steps: int,
                seed: int, blocks: bool = False) -> np.ndarray:
    """Return one chunk per observation, float32 [N, H, A] in units; noise by seed and number.

    With `blocks` branches are kept between the calls of a plan, as the bundle tells.
    """
    shape = (spec.horizon, len(spec.action))
    return np.stack([
        infer(spec, engine, arrays,
              np.random.default_rng((seed, i)).standard_normal(shape, np.float32), steps, seed,
              blocks)
        for i, arrays in enumerate(observations)])


def cost_of_blocks(bundle: Bundle, engine: Engine,
                   observations: Sequence[Mapping[str, np.ndarray]], seed: int,
                   steps: int) -> dict[str, float]:
    """Return what plans of `steps` calls lose to the branches that are kept between them.

    `saving` is branches of all calls by those computed; the rest is `compare_chunks` of plans
    with and without, both on this engine.
    """
    plain, kept = (draw_chunks(bundle.spec, engine, observations, steps, seed, blocks)
                   for blocks in (False, True))
    return {'saving': BlockSchedule.from_json(bundle.blocks[str(steps)]).saving,
            **compare_chunks(bundle.spec, kept, plain)}


def cost_name(steps: int | str) -> str:
    """Return the key of `cost_of_blocks` in a bundle's quality."""
    return f'blocks, {steps} steps'


class Comparison:
    """A reference's chunks under observations, at every step count up to 8."""

    def __init__(self, reference: Engine, spec: PolicySpec,
                 observations: Sequence[Mapping[str, np.ndarray]], seed: int) -> None:
        self._spec, self._observations, self._seed = spec, observations, seed
        counts = [n for n in spec.steps if n <= MOST_STEPS] or [min(spec.steps)]
        self.chunks = {n: self._draw(reference, n) for n in counts}

    def _draw(self, engine: Engine, steps: int) -> np.ndarray:
        return draw_chunks(self._spec, engine, self._observations, steps, self._seed)

    def measure(self, engine: Engine) -> dict[str, Any]:
        """Return `compare_chunks` at the worst of the step counts, and `per_steps`."""
        each = {n: compare_chunks(self._spec, self._draw(engine, n), chunks)
                for n, chunks in self.chunks.items()}
        names = next(iter(each.values()))
        return {**{name: max(m[name] for m in each.values()) for name in names},
                'per_steps': {str(n): m for n, m in each.items()}}


def action_range(spec: PolicySpec, reference: np.ndarray) -> np.ndarray:
    """Return each action's range [A] in units: of its bounds, or of the chunks where unbounded."""
    bounds = np.subtract(spec.action.high, spec.action.low)
    seen = np.maximum(np.ptp(reference.reshape(-1, reference.shape[-1]), axis=0), 1e-12)
    return np.where(np.isfinite(bounds), bounds, seen)


def compare_chunks(spec: PolicySpec, chunks: np.ndarray,
                   reference: np.ndarray) -> dict[str, float]:
    """Compare chunks [N, H, A] with those of the reference from the same noise.

    `chunk_rmse`: root mean square difference as a share of the action range; `jerk_ratio`: of the
    root mean squares of the third differences; `sign_flips`: share of the reference's moves, from
    one action to the next, that go the other way.
    """
    unit = action_range(spec, reference)
    ours, theirs = chunks / unit, reference / unit
    moves, expected = np.diff(ours, axis=1), np.diff(theirs, axis=1)
    moving = np.abs(expected) > STILL
    flips = (np.sign(moves) != np.sign(expected))[moving]
    return {'chunk_rmse': float(np.sqrt(np.mean((ours - theirs) ** 2))),
            'jerk_ratio': _jerk(ours) / max(_jerk(theirs), 1e-12),
            'sign_flips': float(flips.mean()) if flips.size else 0.0}


def _jerk(chunks: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.diff(chunks, 3, axis=1) ** 2)))
