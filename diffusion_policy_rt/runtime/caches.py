"""All that a loop keeps of what it has computed, and the rules of keeping it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from diffusion_policy_rt.runtime.ports import ConditionedEngine, Engine
from diffusion_policy_rt.runtime.tiles import TileRule


@dataclass(frozen=True)
class CacheRules:
    """What may be kept; the defaults change no action."""

    capacity: int = 64
    """Encoded frames, over all cameras."""
    condition: bool = True
    """Whether what the denoiser makes of an observation alone is kept."""
    tiles: Mapping[str, TileRule] = field(default_factory=dict)
    """Per camera, when parts of its images are not encoded again."""


def keep_conditions(engine: Engine, keeps: bool) -> None:
    """Let an engine that can keep what it makes of a condition, or not."""
    if isinstance(engine, ConditionedEngine) and engine.conditioned is not None:
        engine.conditioned.keeps = keeps


def condition_figures(engine: Engine) -> dict[str, object]:
    """Return how often a condition was the last one, where the engine keeps it."""
    if not isinstance(engine, ConditionedEngine) or engine.conditioned is None:
        return {}
    kept = engine.conditioned
    calls = kept.hits + kept.misses
    return {'condition.hits': kept.hits,
            'condition.hit_ratio': kept.hits / calls if calls else float('nan')}
