"""Which caches do anything with a bundle on an engine, and why the others do not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from diffusion_policy_rt.engines.bundle import Bundle
from diffusion_policy_rt.runtime.caches import CacheRules
from diffusion_policy_rt.runtime.ports import BlockwiseEngine, ConditionedEngine, Engine


@dataclass(frozen=True)
class Caching:
    """What can be kept; latents are, whatever runs."""

    condition: bool
    """Whether what the denoiser makes of an observation alone is computed apart."""
    blocks: tuple[int, ...]
    """Step counts in whose plans branches can be kept."""
    tiles: Mapping[str, bool]
    """Camera whose images can be encoded in parts -> whether these have the bits of the whole."""
    notes: tuple[str, ...]
    """Why the rest cannot be kept."""

    @classmethod
    def of(cls, bundle: Bundle, engine: Engine, exact: Mapping[str, bool]) -> Caching:
        """Look at an engine; `exact` is what `Tiling.prove` found."""
        condition = isinstance(engine, ConditionedEngine) and engine.conditioned is not None
        blocks = tuple(steps for steps, schedule in sorted(bundle.spec.schedules.items())
                       if isinstance(engine, BlockwiseEngine)
                       and engine.blockwise(schedule) is not None)
        notes = [] if condition else [
            f'condition: {engine.name} runs the denoiser of this bundle as one graph']
        if not blocks:
            notes.append('blocks: ' + (
                f'{engine.name} computes all branches in every call' if bundle.blocks
                else 'the bundle has no schedule of them; dprt cache finds one'))
        notes += [f'tiles of {camera.name}: {engine.name} encodes its images whole'
                  for camera in bundle.spec.cameras if camera.name not in exact]
        notes += [f'tiles of {name}: parts differ in bits from the whole here, so they are used '
                  'at a threshold above 0 alone' for name, same in exact.items() if not same]
        return cls(condition, blocks, dict(exact), tuple(notes))

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {**asdict(self), 'blocks': list(self.blocks), 'notes': list(self.notes)}

    def in_vain(self, rules: CacheRules) -> list[str]:
        """Return why what the rules ask for beyond the defaults changes nothing, a line each."""
        asked = ['blocks'] if rules.blocks and not self.blocks else []
        asked += [f'tiles of {name}' for name, rule in rules.tiles.items()
                  if rule.tiles and rule.threshold and name not in self.tiles]
        return [f'cache: {note}' for note in self.notes if note.split(':')[0] in asked]
