"""All that a loop keeps of what it has computed, and the rules of keeping it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from diffusion_policy_rt.errors import SpecError
from diffusion_policy_rt.runtime.ports import (
    BlockwiseEngine, ConditionedEngine, Denoiser, Engine)
from diffusion_policy_rt.runtime.tiles import TileRule
from diffusion_policy_rt.runtime.warm import WARM_NOISE
from diffusion_policy_rt.spec import Schedule

LEAST_LEVEL = 0.001
"""Lowest warm start; a chunk noised less is the last one [deviations of the data]."""


@dataclass(frozen=True)
class CacheRules:
    """What may be kept; the defaults change no action."""

    capacity: int = 64
    """Encoded frames, over all cameras."""
    condition: bool = True
    """Whether what the denoiser makes of an observation alone is kept."""
    blocks: bool = False
    """Whether branches of the denoiser are kept between the calls of a plan, where the bundle
    tells which; approximate."""
    warm_start: float = 0.0
    """Noise level, in deviations of the data, from which plans go on from the last chunk; 0 starts
    from noise alone. It changes actions."""
    warm_noise: float = WARM_NOISE
    """Share of that level's noise that the last chunk gets, 0..1."""
    tiles: Mapping[str, TileRule] = field(default_factory=dict)
    """Per camera, when parts of its images are not encoded again."""

    def __post_init__(self) -> None:
        if self.warm_start != 0 and not LEAST_LEVEL <= self.warm_start < math.inf:
            raise SpecError(f'warm_start {self.warm_start:g} is no noise level; use 0 for none, '
                            f'or {LEAST_LEVEL:g} and more')
        if not 0 <= self.warm_noise <= 1:
            raise SpecError(f'warm_noise {self.warm_noise:g} is no share; use 0 to 1')


def keep_conditions(engine: Engine, keeps: bool) -> None:
    """Let an engine that can keep what it makes of a condition, or not."""
    if isinstance(engine, ConditionedEngine) and engine.conditioned is not None:
        engine.conditioned.keeps = keeps


def denoiser_of(engine: Engine, schedule: Schedule, rules: CacheRules) -> Denoiser:
    """Return what a plan's network calls go to: the engine, or what keeps blocks for one plan."""
    made = engine.blockwise(schedule) if (
        rules.blocks and isinstance(engine, BlockwiseEngine)) else None
    return made or engine


def denoiser_figures(engine: Engine) -> dict[str, object]:
    """Return what an engine tells of conditions and branches that it kept."""
    told: dict[str, object] = {}
    if isinstance(engine, ConditionedEngine) and engine.conditioned is not None:
        hits, misses = engine.conditioned.hits, engine.conditioned.misses
        told |= {'condition.hits': hits, 'condition.hit_ratio': _share(hits, hits + misses)}
    if isinstance(engine, BlockwiseEngine):
        kept, computed = engine.blocks['kept'], engine.blocks['computed']
        told |= {'blocks.kept': kept, 'blocks.hit_ratio': _share(kept, kept + computed)}
    return told


def _share(part: int, total: int) -> float:
    return part / total if total else float('nan')
