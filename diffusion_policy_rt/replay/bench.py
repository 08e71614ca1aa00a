"""Latency of a bundle's parts on every engine, measured in turns within one process."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from diffusion_policy_rt.engines.bundle import WEIGHTS, Bundle, read_bundle
from diffusion_policy_rt.engines.load import installed, load_engine
from diffusion_policy_rt.runtime.clock import ManualClock
from diffusion_policy_rt.runtime.frame import Frame, to_input
from diffusion_policy_rt.runtime.loop import PolicyLoop
from diffusion_policy_rt.runtime.ports import Engine
from diffusion_policy_rt.runtime.settings import LoopSettings
from diffusion_policy_rt.spec import PolicySpec

WARMUP = 10


@dataclass(frozen=True)
class Case:
    """One row: what is called, and the facts that stand beside its times."""

    facts: dict[str, Any]
    call: Callable[[], object]


def bench(policy: str, parts: tuple[str, ...], engines: list[str] | None, steps: list[int],
          threads: list[int], repeats: int) -> list[dict[str, Any]]:
    """Return one row per part, engine, thread count and (for plans) step count."""
    bundle = read_bundle(policy)
    cases = [case for name in engines or installed() for count in threads
             for case in _cases(bundle, load_engine(bundle, name, count), parts, steps, count)]
    times = take_turns([case.call for case in cases], repeats)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return [{**case.facts, 'p50_s': float(np.percentile(kept, 50)),
             'p99_s': float(np.percentile(kept, 99)), 'peak_rss_bytes': peak}
            for case, kept in zip(cases, times)]


def take_turns(calls: Sequence[Callable[[], object]], repeats: int) -> list[list[float]]:
    """Return `repeats` durations [s] of each call; they take turns on one and the same machine."""
    times: list[list[float]] = [[] for _ in calls]
    for repeat in tqdm(range(WARMUP + repeats), unit='turn', desc='measuring'):
        for call, kept in zip(calls, times):
            began = time.perf_counter()
            call()
            if repeat >= WARMUP:
                kept.append(time.perf_counter() - began)
    return times


def _cases(bundle: Bundle, engine: Engine, parts: tuple[str, ...], steps: list[int],
           threads: int) -> list[Case]:
    spec, rng = bundle.spec, np.random.default_rng(0)

    def facts(what: str, count: int | None) -> dict[str, Any]:
        weights = bundle.files.get(WEIGHTS, {}).get('bytes')
        return {'what': what, 'engine': engine.name, 'dtype': 'fp32', 'steps': count,
                'threads': threads, 'bytes': weights}

    cases = []
    if 'denoiser' in parts:
        x = rng.standard_normal((spec.horizon, len(spec.action)))
        cond = rng.standard_normal(spec.cond_dim).astype(np.float32)
        cases.append(Case(facts('denoiser', 1), lambda: engine.denoise(x, 1.0, cond)))
    if 'encoder' in parts:
        camera = spec.cameras[0]
        image = to_input(_picture(spec, rng), camera)
        cases.append(Case(facts('encoder', None), lambda: engine.encode(camera.name, image)))
    if 'plan' in parts:
        cases += [Case(facts('plan', n), planner(spec, engine, n, rng))
                  for n in steps if n in spec.steps]
    return cases


def _picture(spec: PolicySpec, rng: np.random.Generator) -> np.ndarray:
    camera = spec.cameras[0]
    return rng.integers(0, 256, (camera.height, camera.width, 3), np.uint8)


def planner(spec: PolicySpec, engine: Engine, steps: int,
            rng: np.random.Generator) -> Callable[[], object]:
    """Return a call that takes one new frame per camera and plans from it."""
    settings = LoopSettings(control_rate=spec.rate, deadline=0.5 / spec.rate, min_steps=steps,
                            max_steps=steps, observation_timeout=1 / spec.rate,
                            action_timeout=2 / spec.rate)
    loop, clock = PolicyLoop(spec, engine, settings, ManualClock()), ManualClock()
    picture = _picture(spec, rng)

    def plan() -> None:
        clock.advance(spec.step_ns)
        now = clock.now_ns()
        for camera in spec.cameras:
            loop.observe_frame(Frame.of(camera.name, now, picture))
        loop.observe_state(now, now, spec.state.example())
        loop.plan(now)

    return plan
