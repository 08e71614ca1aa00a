"""Many closed-loop episodes in parallel processes, and what they amount to."""

from __future__ import annotations

import functools
import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from diffusion_policy_rt.engines.bundle import Bundle, read_bundle
from diffusion_policy_rt.engines.load import load_engine
from diffusion_policy_rt.errors import DataError, SpecError
from diffusion_policy_rt.replay.episode import (
    Controller, Episode, PolicyController, RandomController, run_episode)
from diffusion_policy_rt.replay.nearest import Demonstrations, NearestController
from diffusion_policy_rt.replay.seams import continuity
from diffusion_policy_rt.runtime.caches import denoiser_of
from diffusion_policy_rt.runtime.clock import SteadyClock
from diffusion_policy_rt.runtime.loop import PolicyLoop
from diffusion_policy_rt.runtime.settings import LoopSettings
from diffusion_policy_rt.runtime.tiles import TileRule
from diffusion_policy_rt.runtime.variants import Variant, with_variant
from diffusion_policy_rt.sim.tasks import PUSHT, Task, find_task, task_of
from diffusion_policy_rt.spec import PolicySpec

T = TypeVar('T')
R = TypeVar('R')
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
    task: str = PUSHT.name
    """The simulated robot of `random`; a bundle tells its own."""
    blocks: bool = False
    """Whether branches are kept between the calls of a plan, as the bundle tells."""
    threads: int = 1
    """Per matrix product."""
    tiles: bool = False
    """Whether parts of images that did not change are not encoded again, for every camera."""


def default_steps(served: tuple[int, ...]) -> int:
    """Return the most steps served up to 8, or the fewest where all are more."""
    return max((n for n in served if n <= 8), default=min(served))


def make_controller(what: Evaluation) -> tuple[Controller, int, str]:
    """Return the controller, the steps it takes per plan, and its engine's name."""
    if what.policy == RANDOM:
        return RandomController(find_task(what.task)), 0, 'none'
    if what.policy == NEAREST:
        return make_nearest(what), 0, 'none'
    bundle = read_bundle(what.policy)
    spec, steps = sampled(bundle, what)
    task = task_of(spec, bundle.folder)
    late = (what.delay + 2) / task.rate
    settings = LoopSettings(control_rate=task.rate, deadline=1 / task.rate, min_steps=steps,
                            max_steps=steps, observation_timeout=late, action_timeout=late + 2,
                            n_action_steps=what.execute)
    engine = load_engine(bundle, what.engine, what.threads)
    loop = PolicyLoop(spec, engine, settings, SteadyClock(), what.noise_seed)
    if what.tiles:
        loop.tiling.prove()
    loop.keep(replace(loop.rules, blocks=what.blocks,
                      tiles={camera.name: TileRule(what.tiles) for camera in spec.cameras}))
    if what.blocks and denoiser_of(engine, spec.schedule(steps), loop.rules) is engine:
        raise SpecError(f'{what.policy} does not tell which blocks to keep in {steps} steps on '
                        f'{engine.name}; make it by dprt cache --steps {steps}')
    return PolicyController(loop, what.delay, task), steps, engine.name


def simulated(what: Evaluation) -> Task:
    """Return the simulated robot that is driven; SpecError where a bundle is for none."""
    if what.policy in (RANDOM, NEAREST):
        return find_task(what.task)
    bundle = read_bundle(what.policy)
    return task_of(bundle.spec, bundle.folder)


def sampled(bundle: Bundle, what: Evaluation) -> tuple[PolicySpec, int]:
    """Return the spec as it is to be sampled, and the steps; SpecError where it cannot be."""
    spec = bundle.spec
    task_of(spec, bundle.folder)
    steps = what.steps or default_steps(spec.steps)
    if what.variant is not None:
        spec = with_variant(spec, what.variant, steps)
    spec.schedule(steps)
    return spec, steps


def make_nearest(what: Evaluation) -> NearestController:
    """Return the controller of `nearest`; it acts on the true state, so delay has no meaning."""
    if what.task != PUSHT.name:
        raise DataError(f'--policy {NEAREST} compares states of Push-T; use --task {PUSHT.name}')
    if what.demonstrations is None:
        raise DataError(f'--policy {NEAREST} looks its actions up; give the demonstrations by '
                        '--data')
    if what.delay:
        raise DataError(f'--policy {NEAREST} acts on the true state; --delay does not apply')
    return NearestController(what.demonstrations, what.execute)


_worker: dict[str, Any] = {}


def _prepare(what: Evaluation) -> None:
    controller, *_ = make_controller(what)  # first: it tells what is wrong with the policy
    task = simulated(what)
    _worker.update(what=what, task=task, robot=task.make(), controller=controller)


def _work(seed: int) -> Episode:
    return run_episode(_worker['controller'], _worker['robot'], seed,
                       _worker['what'].picture_every, _worker['task'])


def evaluate(what: Evaluation, seeds: Sequence[int], workers: int) -> Iterator[Episode]:
    """Yield the episodes of `seeds` in order, run in `workers` processes."""
    yield from in_processes(_prepare, what, _work, seeds, min(workers, len(seeds)))


def in_processes(prepare: Callable[[R], None], argument: R, work: Callable[[Any], T],
                 items: Iterable[Any], workers: int) -> Iterator[T]:
    """Yield `work(item)` in order, from processes that each called `prepare(argument)` once."""
    if workers <= 1:
        prepare(argument)
        yield from map(work, items)
        return
    # spawned, not forked: engines and SDL hold threads
    context = multiprocessing.get_context('spawn')
    with context.Pool(workers, _begin, (prepare, argument)) as pool:
        yield from pool.imap(functools.partial(_work_if_prepared, work), items)


_unprepared: list[Exception] = []


def _begin(prepare: Callable[[R], None], argument: R) -> None:
    try:
        prepare(argument)
    except Exception as error:  # raised here, the pool would start the process anew for ever
        _unprepared.append(error)


def _work_if_prepared(work: Callable[[Any], T], item: Any) -> T:
    if _unprepared:
        raise _unprepared[0]
    return work(item)


def bootstrap(values: np.ndarray, draws: int = 10_000) -> list[float]:
    """Return the 95 % interval of the mean, by resampling episodes."""
    rng = np.random.default_rng(0)
    picks = rng.integers(len(values), size=(draws, len(values)))
    low, high = np.percentile(values[picks].mean(1), (2.5, 97.5))
    return [float(low), float(high)]


def outcome(episode: Episode) -> dict[str, Any]:
    """Return what is kept of an episode: plain JSON."""
    seam, within = episode.jumps()
    return {'seed': episode.seed, 'max_coverage': episode.max_coverage,
            'success': episode.success, 'coverage': max(episode.coverages),
            'steps': len(episode.coverages), 'jerk': episode.jerk,
            'seam_jumps': significant(seam), 'chunk_jumps': significant(within)}


def significant(values: np.ndarray) -> list[float]:
    """Return values to four digits, whatever their unit."""
    return [float(f'{value:.4g}') for value in values]


def summarise(outcomes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the figures of `dprt eval --json` that the outcomes of the episodes determine."""
    scores, wins, jerks = (np.array([float(one[key]) for one in outcomes])
                           for key in ('max_coverage', 'success', 'jerk'))
    return {
        'episodes': len(outcomes),
        'mean_max_coverage': float(scores.mean()),
        'ci95': bootstrap(scores),
        'success_rate': float(wins.mean()),
        'success_ci95': bootstrap(wins),
        'jerk': float(jerks.mean()),
        'seams': continuity(outcomes),
        'per_episode': list(outcomes),
    }
