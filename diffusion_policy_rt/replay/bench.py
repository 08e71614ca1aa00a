"""Latency of bundles' parts on every engine, measured in turns within one process."""

from __future__ import annotations

import itertools
import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from tqdm import tqdm

from diffusion_policy_rt.engines.bundle import WEIGHTS, Bundle, read_bundle
from diffusion_policy_rt.engines.load import denoise_anew, installed, load_engine
from diffusion_policy_rt.engines.timing import STREAM_BYTES, peak_rss, reader, take_turns
from diffusion_policy_rt.engines.weights import OWN, part_of, read_header
from diffusion_policy_rt.runtime.clock import ManualClock
from diffusion_policy_rt.runtime.frame import Frame, to_input
from diffusion_policy_rt.runtime.loop import PolicyLoop
from diffusion_policy_rt.runtime.ports import Engine
from diffusion_policy_rt.runtime.settings import LoopSettings
from diffusion_policy_rt.runtime.variants import Variant, with_variant
from diffusion_policy_rt.spec import CameraSpec, PolicySpec

PICTURES = 8
"""Images that plans see in turn, so that nothing of the last plan serves the next."""
COMPILED = 'torch-compile'
"""The network through torch.compile: no engine of the node, but something to be held against."""


@dataclass(frozen=True)
class Case:
    """One row: what is called, and the facts that stand beside its times."""

    facts: dict[str, Any]
    call: Callable[[], object]


def open_engine(bundle: Bundle, name: str, threads: int) -> Engine:
    """Load an engine by name, or torch's compiled form."""
    if name != COMPILED:
        return load_engine(bundle, name, threads)
    from diffusion_policy_rt.engines.torch_engine import TorchEngine
    return TorchEngine(bundle, threads, compiled=True)


def bench(policies: Sequence[str], parts: tuple[str, ...], engines: list[str] | None,
          steps: list[int], threads: list[int], repeats: int) -> list[dict[str, Any]]:
    """Return one row per part, policy, engine, thread count and (for plans) step count.

    Rows of one thread count take turns. `read_share` is the bandwidth at which a denoiser's
    weights are read, as a share of what the machine reads in the same turns.
    """
    bundles, rows = [read_bundle(policy) for policy in policies], []
    for count in threads:
        cases = [case for bundle in bundles for name in engines or installed()
                 for case in _cases(bundle, name, parts, steps, count)]
        calls = [case.call for case in cases] + [reader(count)]
        *times, read = take_turns(calls, repeats, bar)
        ceiling = STREAM_BYTES / float(np.median(read))
        rows += [_row(case.facts, taken, ceiling) for case, taken in zip(cases, times)]
    return rows


def bar(turns: range) -> tqdm:
    """Show how far a measurement is."""
    return tqdm(turns, unit='turn', desc='measuring')


def _row(facts: dict[str, Any], taken: list[float], ceiling: float) -> dict[str, Any]:
    p50 = float(np.percentile(taken, 50))
    share = facts['bytes'] / p50 / ceiling if facts['what'] == 'denoiser' else None
    return {**facts, 'p50_s': p50, 'p99_s': float(np.percentile(taken, 99)), 'read_share': share}


def resident(folder: str, engine: str, threads: int) -> int:
    """Return the most memory [bytes] of a process that loads the engine and plans once."""
    with multiprocessing.get_context('spawn').Pool(1) as pool:
        return pool.apply(_resident, (folder, engine, threads))


def _resident(folder: str, engine: str, threads: int) -> int:
    bundle = read_bundle(folder)
    call = planner(bundle.spec, open_engine(bundle, engine, threads), min(bundle.spec.steps),
                   np.random.default_rng(0))
    call()
    return peak_rss()


def dtype(bundle: Bundle, part: str, engine: str) -> str:
    """Return the form of a part on an engine; torch computes in fp32 whatever is stored."""
    if engine in ('torch', COMPILED):
        return 'fp32'
    layout = read_header(bundle.path(WEIGHTS))[1].get('layout')
    stored = str(bundle.dtypes.get(part, 'fp32'))
    return 'fp32-convolutions' if stored == 'fp32' and layout == OWN else stored


def _cases(bundle: Bundle, name: str, parts: tuple[str, ...], steps: list[int],
           threads: int) -> list[Case]:
    spec, rng, engine = bundle.spec, np.random.default_rng(0), open_engine(bundle, name, threads)
    peak = resident(str(bundle.folder), name, threads)
    camera = spec.cameras[0] if spec.cameras else None
    stored = read_header(bundle.path(WEIGHTS))[0]

    def facts(what: str, count: int | None) -> dict[str, Any]:
        part = f'encoder_{camera.name}' if camera and what == 'encoder' else 'denoiser'
        read = stored if what == 'plan' else part_of(part, stored)
        return {'what': what, 'policy': spec.name, 'engine': name,
                'dtype': dtype(bundle, part, name),
                'steps': count, 'threads': threads, 'cameras': len(spec.cameras),
                'image': camera.height if camera else None, 'horizon': spec.horizon,
                'bytes': sum(t.length for t in read.values()),
                'peak_rss_bytes': peak}

    cases = []
    if 'denoiser' in parts:
        cases.append(Case(facts('denoiser', 1), lambda: denoise_anew(engine, spec)))
    if 'encoder' in parts and camera:
        image = to_input(_picture(camera, rng), camera)
        cases.append(Case(facts('encoder', None), partial(engine.encode, camera.name, image)))
    if 'plan' in parts:
        cases += [Case(facts('plan', n), planner(spec, engine, n, rng)) for n in steps]
    return cases


def _picture(camera: CameraSpec, rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (camera.height, camera.width, 3), np.uint8)


def planner(spec: PolicySpec, engine: Engine, steps: int,
            rng: np.random.Generator) -> Callable[[], object]:
    """Return a call that takes one new frame per camera and plans from it.

    A step count that the policy does not serve is sampled as its teacher would be: `ddim`, or
    with the noise of DDPM for as many steps as DDPM has.
    """
    if steps not in spec.steps:
        spec = with_variant(spec, Variant('ancestral' if steps >= 100 else 'ddim'), steps)
    settings = LoopSettings(control_rate=spec.rate, deadline=0.5 / spec.rate, min_steps=steps,
                            max_steps=steps, observation_timeout=1 / spec.rate,
                            action_timeout=2 / spec.rate)
    loop, clock = PolicyLoop(spec, engine, settings, ManualClock()), ManualClock()
    pictures = itertools.cycle([{camera.name: _picture(camera, rng) for camera in spec.cameras}
                                for _ in range(PICTURES)])

    def plan() -> None:
        clock.advance(spec.step_ns)
        now = clock.now_ns()
        for name, picture in next(pictures).items():
            loop.observe_frame(Frame.of(name, now, picture))
        loop.observe_state(now, now, spec.state.example())
        loop.plan(now)

    return plan
