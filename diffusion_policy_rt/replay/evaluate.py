"""Many closed-loop episodes in parallel processes, and what they amount to."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffusion_policy_rt.engines.bundle import read_bundle
from diffusion_policy_rt.engines.load import load_engine
from diffusion_policy_rt.errors import DataError, SpecError
from diffusion_policy_rt.replay.episode import (
    Controller, Episode, PolicyController, RandomController, run_episode)
from diffusion_policy_rt.replay.nearest import Demonstrations, NearestController
from diffusion_policy_rt.runtime.clock import SteadyClock
from diffusion_policy_rt.runtime.loop import PolicyLoop
from diffusion_policy_rt.runtime.settings import LoopSettings
from diffusion_policy_rt.runtime.variants import Variant, with_variant
from diffusion_policy_rt.sim.pusht import RATE, PushT

RANDOM = 'random'
"""The policy name that stands for uniformly random targets."""
NEAREST = 'nearest'
"""The policy name that stands for the one-nearest-neighbour floor."""


@dataclass(frozen=True)
class Evaluation:
    """What is evaluated, and how."""

    policy: str
    steps: int = 0
    """Network calls per plan; 0 takes the most that the bundle serves up to 8."""
    engine: str = 'auto'
    delay: int = 0
    """Control steps of latency charged."""
    execute: int = 0
    """Actions executed of each chunk; 0 takes the bundle's."""
    noise_seed: int = 0
    picture_every: int = 0
    variant: Variant | None = None
    """A sampler in place of the bundle's own schedule."""
    demonstrations: Demonstrations | None = None
    """What `nearest` looks up."""


def default_steps(served: tuple[int, ...]) -> int:
    """Return the most steps served up to 8, or the fewest where all are more."""
    return max((n for n in served if n <= 8), default=min(served))


def make_controller(what: Evaluation) -> tuple[Controller, int, str]:
    """Return the controller, the steps it takes per plan, and its engine's name."""
    if what.policy == RANDOM:
        return RandomController(), 0, 'none'
    if what.policy == NEAREST:
        return make_nearest(what), 0, 'none'
    bundle = read_bundle(what.policy)
    spec = bundle.spec
    if spec.rate != RATE or len(spec.cameras) != 1 or spec.action.names != ('x', 'y'):
        raise SpecError(f'{bundle.folder} is no Push-T policy (one camera, actions x and y, '
                        f'{RATE} Hz); closed-loop evaluation simulates only Push-T')
    steps = what.steps or default_steps(spec.steps)
    if what.variant is not None:
        spec = with_variant(spec, what.variant, steps)
    spec.schedule(steps)
    late = (what.delay + 2) / RATE
    settings = LoopSettings(control_rate=RATE, deadline=1 / RATE, min_steps=steps,
                            max_steps=steps, observation_timeout=late, action_timeout=late + 2,
                            n_action_steps=what.execute)
    engine = load_engine(bundle, what.engine)
    loop = PolicyLoop(spec, engine, settings, SteadyClock(), what.noise_seed)
    return PolicyController(loop, what.delay), steps, engine.name


def make_nearest(what: Evaluation) -> NearestController:
    """Return the controller of `nearest`; it acts on the true state, so delay has no meaning."""
    if what.demonstrations is None:
        raise DataError(f'--policy {NEAREST} looks its actions up; give the demonstrations by '
                        '--data')
    if what.delay:
        raise DataError(f'--policy {NEAREST} acts on the true state; --delay does not apply')
    return NearestController(what.demonstrations, what.execute)


_worker: dict[str, Any] = {}


def _prepare(what: Evaluation) -> None:
    _worker.update(what=what, robot=PushT(), controller=make_controller(what)[0])


def _work(seed: int) -> Episode:
    return run_episode(_worker['controller'], _worker['robot'], seed,
                       _worker['what'].picture_every)


def evaluate(what: Evaluation, seeds: range, workers: int) -> Iterator[Episode]:
    """Yield the episodes of `seeds` in order, run in `workers` processes."""
    if workers <= 1:
        _prepare(what)
        yield from map(_work, seeds)
        return
    # spawned, not forked: engines and SDL hold threads
    with multiprocessing.get_context('spawn').Pool(workers, _prepare, (what,)) as pool:
        yield from pool.imap(_work, seeds)


def bootstrap(values: np.ndarray, draws: int = 10_000) -> list[float]:
    """Return the 95 % interval of the mean, by resampling episodes."""
    rng = np.random.default_rng(0)
    picks = rng.integers(len(values), size=(draws, len(values)))
    low, high = np.percentile(values[picks].mean(1), (2.5, 97.5))
    return [float(low), float(high)]


def summarise(episodes: list[Episode]) -> dict[str, Any]:
    """Return the figures of `dprt eval --json` that the episodes determine."""
    scores = np.array([episode.max_coverage for episode in episodes])
    wins = np.array([episode.success for episode in episodes], float)
    return {
        'episodes': len(episodes),
        'mean_max_coverage': float(scores.mean()),
        'ci95': bootstrap(scores),
        'success_rate': float(wins.mean()),
        'success_ci95': bootstrap(wins),
        'jerk': float(np.mean([episode.jerk for episode in episodes])),
        'per_episode': [{'seed': e.seed, 'max_coverage': e.max_coverage, 'success': e.success,
                         'coverage': max(e.coverages), 'steps': len(e.coverages)}
                        for e in episodes],
    }
