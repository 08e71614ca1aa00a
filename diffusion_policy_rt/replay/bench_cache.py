"""What caches save and what they change: plans on scenes, each cache in turns with none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tqdm import tqdm

from diffusion_policy_rt.engines.bundle import read_bundle
from diffusion_policy_rt.engines.load import load_engine
from diffusion_policy_rt.engines.timing import take_turns
from diffusion_policy_rt.runtime.clock import SteadyClock
from diffusion_policy_rt.runtime.frame import Frame
from diffusion_policy_rt.runtime.loop import Plan, PolicyLoop
from diffusion_policy_rt.runtime.ports import Engine
from diffusion_policy_rt.runtime.settings import LoopSettings
from diffusion_policy_rt.runtime.tiles import TileRule
from diffusion_policy_rt.spec import PolicySpec

CACHES: dict[str, TileRule | None] = {
    'none': None, 'latents': TileRule(), 'tiles': TileRule(True),
    'tiles, threshold 6': TileRule(True, 6.0)}
"""Latents are kept in all but the first; tiles work on top of that."""
SCENES = ('still', 'moving', 'noise', 'moved camera')
IMAGES = 16
"""A scene has so many images, over and over."""


def scene(kind: str, rows: int, columns: int) -> list[np.ndarray]:
    """Return a scene's images, uint8 [rows, columns, 3].

    `moving` is a square of a twentieth of the image that wanders; `noise` is of a real sensor's
    size, up to 3 of 255, over a still image; a `moved camera` shifts everything.
    """
    rng = np.random.default_rng(0)
    still = rng.integers(8, 248, (rows, columns, 3), np.uint8)
    if kind == 'noise':
        return [still + rng.integers(-3, 4, still.shape, np.int8).view(np.uint8)
                for _ in range(IMAGES)]
    if kind == 'moved camera':
        return [np.roll(still, number, axis=1) for number in range(IMAGES)]
    images, side = [still.copy() for _ in range(IMAGES)], round(0.05**0.5 * rows)
    for number, image in enumerate(images if kind == 'moving' else ()):
        place = number * (rows - side) // IMAGES
        image[place:place + side, place:place + side] = 255
    return images


@dataclass
class Planning:
    """Plans over a scene with one cache; `times` and `actions` are those of each plan."""

    loop: PolicyLoop
    rule: TileRule | None
    images: Sequence[np.ndarray]
    times: list[tuple[float, float]] = field(default_factory=list)
    """Of encoding and of the whole plan [s]."""
    actions: list[np.ndarray] = field(default_factory=list)

    def __call__(self) -> None:
        """Take one new frame per camera and plan."""
        loop, spec = self.loop, self.loop.spec
        now = (len(self.times) + 1) * spec.step_ns
        for camera in spec.cameras:
            loop.observe_frame(Frame.of(camera.name, now, self.images[
                len(self.times) % len(self.images)]))
        loop.observe_state(now, now, spec.state.example())
        if self.rule is None:
            loop.cache.clear()
        plan = loop.plan(now)
        assert isinstance(plan, Plan)
        self.times.append((plan.encode_ns / 1e9, plan.plan_ns / 1e9))
        self.actions.append(plan.chunk.actions)


def bench_cache(policies: Sequence[str], engines: Sequence[str], steps: int, threads: int,
                repeats: int, bar: Callable[[range], Any] = tqdm) -> list[dict[str, Any]]:
    """Return one row per policy, engine, scene and cache.

    `encoder_ratio` and `plan_ratio` are the times without any cache by those with it, in turns;
    `action_rmse` is the difference of the actions as a share of their range.
    """
    rows = []
    for policy in policies:
        bundle = read_bundle(policy)
        for name in engines:
            engine = load_engine(bundle, name, threads)
            for kind in SCENES:
                cases = {cache: _planning(bundle.spec, engine, kind, rule, steps)
                         for cache, rule in CACHES.items()}
                take_turns(list(cases.values()), repeats, bar)
                rows += [{'what': 'cache', 'policy': bundle.spec.name, 'engine': engine.name,
                          'steps': steps, 'threads': threads, 'image': cases['none'].loop.spec
                          .cameras[0].height, 'scene': kind, 'cache': cache,
                          **_row(case, cases['none'])} for cache, case in cases.items()]
    return rows


def _planning(spec: PolicySpec, engine: Engine, kind: str, rule: TileRule | None,
              steps: int) -> Planning:
    settings = LoopSettings(control_rate=spec.rate, deadline=0.5 / spec.rate, min_steps=steps,
                            max_steps=steps, observation_timeout=1 / spec.rate,
                            action_timeout=2 / spec.rate)
    loop, camera = PolicyLoop(spec, engine, settings, SteadyClock()), spec.cameras[0]
    loop.tiling.prove()
    loop.tiling.rules = {camera.name: rule or TileRule() for camera in spec.cameras}
    return Planning(loop, rule, scene(kind, camera.height, camera.width))


def _row(case: Planning, none: Planning) -> dict[str, Any]:
    (encode, plan), (encode_0, plan_0) = (np.median(c.times, axis=0) for c in (case, none))
    spec = case.loop.spec
    span = np.asarray(spec.action.high) - np.asarray(spec.action.low)
    error = (np.asarray(case.actions) - np.asarray(none.actions)) / span
    told = case.loop.tiling.figures()
    return {'encode_s': float(encode), 'encoder_ratio': float(encode_0 / encode),
            'p50_s': float(plan), 'p99_s': float(np.percentile([t for _, t in case.times], 99)),
            'plan_ratio': float(plan_0 / plan),
            'hit_ratio': told.get(f'tiles.{spec.cameras[0].name}.hit_ratio'),
            'action_rmse': float(np.sqrt(np.mean(error**2)))}
