"""What caches save and what they change: plans on scenes, each cache in turns with none."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from tqdm import tqdm

from diffusion_policy_rt.engines.bundle import Bundle, read_bundle
from diffusion_policy_rt.engines.load import load_engine
from diffusion_policy_rt.engines.timing import take_turns
from diffusion_policy_rt.errors import DataError
from diffusion_policy_rt.replay.scenes import SCENES, frames_per_plan, pusht
from diffusion_policy_rt.runtime.caches import CacheRules
from diffusion_policy_rt.runtime.clock import SteadyClock
from diffusion_policy_rt.runtime.frame import Frame
from diffusion_policy_rt.runtime.loop import Plan, PolicyLoop
from diffusion_policy_rt.runtime.settings import LoopSettings
from diffusion_policy_rt.runtime.tiles import TileRule

NONE, EXACT, BLOCKS = 'none', 'all exact', 'all, blocks'
CACHES: dict[str, Callable[[Mapping[str, Any]], CacheRules]] = {
    NONE: lambda off: CacheRules(condition=False, tiles=off),
    'latents': lambda off: CacheRules(condition=False, tiles=off),
    'condition': lambda off: CacheRules(tiles=off),
    EXACT: lambda off: CacheRules(tiles=dict.fromkeys(off, TileRule(True))),
    'all, threshold 6': lambda off: CacheRules(tiles=dict.fromkeys(off, TileRule(True, 6.0))),
    BLOCKS: lambda off: CacheRules(blocks=True, tiles=dict.fromkeys(off, TileRule(True)))}
"""What the rules are, given those of tiles that are off. `none` forgets all latents before each
plan; `condition` is on top of latents; blocks are measured where the bundle has a schedule."""


BURST = 4
"""Plans on end in a turn: the processor's caches hold one policy then, as on a robot."""


class WorkClock:
    """Tells the time that the processor has spent on the calling thread."""

    def now_ns(self) -> int:
        """Return it [ns]."""
        return time.thread_time_ns()


@dataclass
class Planning:
    """Plans over a scene with one cache; `times` and `actions` are those of each plan."""

    loop: PolicyLoop
    keeps: bool
    images: Iterator[np.ndarray]
    new: Iterator[int]
    """How many new frames the next plan has, of each camera."""
    now: int = 0
    times: list[tuple[float, float]] = field(default_factory=list)
    """Of encoding and of the whole plan [s]."""
    actions: list[np.ndarray] = field(default_factory=list)

    def __call__(self) -> None:
        """Take in the new frames, and plan."""
        loop, spec = self.loop, self.loop.spec
        for _ in range(next(self.new)):
            self.now, image = self.now + spec.step_ns, next(self.images)
            for camera in spec.cameras:
                loop.observe_frame(Frame.of(camera.name, self.now, image))
            loop.observe_state(self.now, self.now, spec.state.example())
        if not self.keeps:
            loop.cache.clear()
        plan = loop.plan(self.now)
        assert isinstance(plan, Plan)
        self.times.append((plan.encode_ns / 1e9, plan.plan_ns / 1e9))
        self.actions.append(plan.chunk.actions)


def bench_cache(policies: Sequence[str], engines: Sequence[str], steps: int, threads: int,
                repeats: int, bar: Callable[[range], Any] = tqdm) -> list[dict[str, Any]]:
    """Return one row per policy, engine, scene and cache.

    `encoder_ratio` and `plan_ratio` are the times without any cache by those with it, medians of
    plans that took turns; `action_rmse` is the difference of the actions as a share of their
    range. With one thread times are the processor's, which others on the machine do not change.
    """
    return [{'what': 'cache', 'policy': bundle.spec.name, 'engine': name, 'steps': steps,
             'threads': threads, 'image': bundle.spec.cameras[0].height, 'scene': scene, **row}
            for bundle in map(read_bundle, policies) for name in engines for scene in SCENES
            for row in _rows(bundle, name, scene, steps, threads, repeats, bar)]


def _rows(bundle: Bundle, engine: str, scene: str, steps: int, threads: int, repeats: int,
          bar: Callable[[range], Any]) -> Iterator[dict[str, Any]]:
    cases = {cache: _planning(bundle, engine, scene, cache, steps, threads) for cache in CACHES
             if cache != BLOCKS or str(steps) in bundle.blocks}
    take_turns([partial(_burst, case) for case in cases.values()], -(-repeats // BURST), bar)
    return ({'cache': cache, **_row(case, cases[NONE])} for cache, case in cases.items())


def _burst(case: Planning) -> None:
    for _ in range(BURST):
        case()


def _planning(bundle: Bundle, engine: str, scene: str, cache: str, steps: int,
              threads: int) -> Planning:
    spec = bundle.spec
    if not spec.cameras:
        raise DataError(f'{spec.name} has no cameras, whose scenes the caches are measured on; '
                        'take a policy that has')
    settings = LoopSettings(control_rate=spec.rate, deadline=0.5 / spec.rate, min_steps=steps,
                            max_steps=steps, observation_timeout=1 / spec.rate,
                            action_timeout=2 / spec.rate)
    # an engine of its own, because engines keep what they make of conditions
    loop = PolicyLoop(spec, load_engine(bundle, engine, threads), settings,
                      WorkClock() if threads == 1 else SteadyClock())
    camera = spec.cameras[0]
    loop.tiling.prove()
    rules = CACHES[cache](loop.rules.tiles)
    loop.keep(replace(rules, capacity=loop.rules.capacity))
    images = SCENES[scene](pusht(camera.height, camera.width))
    return Planning(loop, cache != NONE, itertools.cycle(images),
                    frames_per_plan(scene, spec.n_obs))


def _row(case: Planning, none: Planning) -> dict[str, Any]:
    (encode, plan), (encode_0, plan_0) = (np.median(c.times, axis=0) for c in (case, none))
    spec = case.loop.spec
    span = np.asarray(spec.action.high) - np.asarray(spec.action.low)
    error = (np.asarray(case.actions) - np.asarray(none.actions)) / span
    told = case.loop.cache_figures()
    return {'encode_s': float(encode), 'encoder_ratio': float(encode_0 / encode),
            'p50_s': float(plan), 'p99_s': float(np.percentile([t for _, t in case.times], 99)),
            'plan_ratio': float(plan_0 / plan),
            'hit_ratio': told.get(f'tiles.{spec.cameras[0].name}.hit_ratio'),
            'condition_hit_ratio': told.get('condition.hit_ratio'),
            'action_rmse': float(np.sqrt(np.mean(error**2)))}
