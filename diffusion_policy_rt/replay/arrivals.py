"""Random arrivals against the exact caches: each action is that of a loop that keeps nothing."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from diffusion_policy_rt.runtime.chunk import Chunk
from diffusion_policy_rt.runtime.clock import ManualClock
from diffusion_policy_rt.runtime.frame import Frame
from diffusion_policy_rt.runtime.loop import Plan, PolicyLoop
from diffusion_policy_rt.runtime.ports import Engine
from diffusion_policy_rt.runtime.settings import LoopSettings
from diffusion_policy_rt.runtime.tiles import TileRule
from diffusion_policy_rt.spec import PolicySpec

PLANS = 8
"""Ticks of a sequence."""
KINDS = ('next', 'late', 'again', 'reordered', 'missing', 'wrapped', 'reset')
WEIGHTS = (8, 2, 2, 2, 3, 1, 1)
BACK = 6
"""Steps by which stamps are set back at most: few, so that those of before come again."""
SHADES = 6
"""Different images: few, so that a frame often looks like another one."""


@dataclass(frozen=True)
class Arrival:
    """What happens before one tick."""

    kind: str
    now_ns: int
    frames: tuple[tuple[int, int], ...]
    """Stamp [ns] and number of the image of each frame, in order of arrival; of all cameras."""


def sequence(seed: int, step_ns: int) -> Iterator[Arrival]:
    """Yield the arrivals of one sequence.

    A frame may come a tick late, twice (the second time with other pixels), before an older one,
    or not at all; the stamps may begin anew, at some that were seen before, and with or without a
    reset.
    """
    rng = random.Random(seed)
    stamp, held = rng.randrange(2**30), list[tuple[int, int]]()
    for _ in range(PLANS):
        kind = rng.choices(KINDS, WEIGHTS)[0]
        stamp += -rng.randrange(BACK) * step_ns if kind == 'wrapped' else step_ns
        new = (stamp, rng.randrange(SHADES))
        came = [*held, *{'missing': [], 'late': [], 'again': [new, (stamp, rng.randrange(SHADES))],
                         'reordered': [new, (stamp - step_ns // 2, rng.randrange(SHADES))]}.get(
                             kind, [new])]
        held = [new] if kind == 'late' else []
        yield Arrival(kind, stamp, tuple(came))


class Pair:
    """Two loops over the same arrivals: one with all exact caches, one that keeps nothing."""

    def __init__(self, spec: PolicySpec, load: Callable[[], Engine]) -> None:
        """Take a function that loads an engine; each loop has its own."""
        settings = LoopSettings(control_rate=spec.rate, deadline=0.5 / spec.rate, max_steps=2,
                                observation_timeout=3 / spec.rate, action_timeout=6 / spec.rate)
        self.spec = spec
        self.cached, self.plain = (PolicyLoop(spec, load(), settings, ManualClock())
                                   for _ in range(2))
        self.cached.tiling.prove()
        tiles = dict.fromkeys(self.cached.rules.tiles, TileRule(True))
        self.cached.keep(replace(self.cached.rules, tiles=tiles))
        self.plain.keep(replace(self.plain.rules, condition=False))
        self._arrived, rng = 0, np.random.default_rng(0)
        self._images = {c.name: rng.integers(0, 256, (SHADES, c.height, c.width, 3), np.uint8)
                        for c in spec.cameras}

    def run(self, seed: int) -> tuple[int, int]:
        """Run one sequence; return its plans, and those whose actions differ."""
        plans = differ = 0
        for loop in (self.cached, self.plain):
            loop.reset()
        for arrival in sequence(seed, self.spec.step_ns):
            ours, theirs = (self._plan(loop, arrival) for loop in (self.cached, self.plain))
            plans += ours is not None
            differ += not _same(ours, theirs)
        return plans, differ

    def _plan(self, loop: PolicyLoop, arrival: Arrival) -> Chunk | None:
        if arrival.kind == 'reset':
            loop.reset()
        now = arrival.now_ns
        self._arrived += 1
        for stamp, image in arrival.frames:
            for name, images in self._images.items():
                seen = Frame.of(name, stamp, images[image])
                loop.observe_frame(replace(seen, arrival_ns=now + self._arrived))
        loop.observe_state(now, now, self.spec.state.example() * 0 + now % 7)
        if loop is self.plain:
            loop.cache.clear()
        made = loop.plan(now)
        return made.chunk if isinstance(made, Plan) else None


def _same(ours: Chunk | None, theirs: Chunk | None) -> bool:
    if ours is None or theirs is None:
        return ours is theirs
    return ours.start_ns == theirs.start_ns and np.array_equal(ours.actions, theirs.actions)


def check_arrivals(spec: PolicySpec, load: Callable[[], Engine], count: int,
                   bar: Callable[[range], Any] = iter) -> dict[str, Any]:
    """Return what came of so many sequences: `plans`, `differ`, and the caches' hits."""
    pair, plans, differ = Pair(spec, load), 0, 0
    for seed in bar(range(count)):
        made, wrong = pair.run(seed)
        plans, differ = plans + made, differ + wrong
    return {'sequences': count, 'plans': plans, 'differ': differ,
            'latent_hits': pair.cached.cache.hits, 'frames_encoded': pair.cached.cache.misses,
            **pair.cached.cache_figures()}
