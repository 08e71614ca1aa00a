"""What caches do to the score: the same episodes under each cache, held against none.

A seed is played under all caches by one process, so every difference is of a pair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tqdm import tqdm

from diffusion_policy_rt.engines.bundle import read_bundle
from diffusion_policy_rt.engines.caching import Caching
from diffusion_policy_rt.errors import DataError
from diffusion_policy_rt.replay.bench_cache import BLOCKS, CACHES, EXACT, NONE
from diffusion_policy_rt.replay.compare import paired_difference
from diffusion_policy_rt.replay.episode import PolicyController, run_episode
from diffusion_policy_rt.replay.evaluate import (
    Evaluation, in_processes, make_controller, outcome, simulated, summarise)
from diffusion_policy_rt.runtime.caches import CacheRules
from diffusion_policy_rt.runtime.loop import PolicyLoop
from diffusion_policy_rt.runtime.tiles import TileRule
from diffusion_policy_rt.runtime.tiling import Tiling
from diffusion_policy_rt.runtime.warm import ONE_CALL, REACH, WARM_NOISE
from diffusion_policy_rt.sim.tasks import SimulatedRobot, Task

THRESHOLD = 'all, threshold 6'
SMALL = f'{THRESHOLD}, small images in parts'
WARM = 'all exact, warm start'
PLAYED = (NONE, EXACT, THRESHOLD, SMALL, WARM, BLOCKS)
"""Of `bench_cache.CACHES`, and two more. SMALL encodes parts of images that are too small for it
to pay: what tiles of a larger image would do to the score, for a policy that has none. WARM goes
on from the last chunk, at each level asked for, which its row tells."""
Played = dict[str, tuple[dict[str, Any], dict[str, object]]]
"""Cache -> an episode's outcome with its `targets` as bytes, its `turns` and the time that it
`stood`, and what its process' caches tell."""


@dataclass(frozen=True)
class Closed:
    """What is played."""

    policy: str
    engine: str
    steps: int
    threads: int = 1
    noise: int = 0
    """Noise of up to this much, of 255, in every pixel that the policy sees."""
    caches: tuple[str, ...] = ()
    """Of `PLAYED`, those to hold against none; all where it names none."""
    levels: tuple[float, ...] = (ONE_CALL,)
    """Of WARM, in deviations of the data."""
    warm_noise: float = WARM_NOISE
    """Share of these levels' noise that the last chunk gets."""


class SensedController(PolicyController):
    """A policy whose camera is noisy; of episodes of one seed alike, step by step."""

    def __init__(self, loop: PolicyLoop, task: Task, noise: int, keeps: bool) -> None:
        super().__init__(loop, task=task)
        self._noise, self._keeps = noise, keeps

    def begin(self, seed: int) -> None:
        """Forget the last episode."""
        super().begin(seed)
        self._rng = np.random.default_rng(seed)
        self.turns: list[float] = []
        """How far each plan's first action is from what the chunk before it had due then."""

    def target(self, step: int, robot: SimulatedRobot) -> np.ndarray:
        """Return the target, [A] in the task's units."""
        if not self._keeps:
            self.loop.cache.clear()
        before, now = self.loop.current, step * self.loop.spec.step_ns
        made, after = super().target(step, robot), self.loop.current
        if before is not None and after is not None and before is not after:
            ends = [chunk.rest(now)[:1] for chunk in (before, after)]
            self.turns += [float(np.linalg.norm(ends[1] - ends[0]))] if len(ends[0]) else []
        return made

    def _look(self, robot: SimulatedRobot) -> dict[str, np.ndarray]:
        seen = super()._look(robot)
        return {name: self._sensed(image) for name, image in seen.items()} if self._noise else seen

    def _sensed(self, image: np.ndarray) -> np.ndarray:
        noise = self._rng.integers(-self._noise, self._noise + 1, image.shape)
        return np.clip(image + noise, 0, 255).astype(np.uint8)


def rows_of(what: Closed) -> dict[str, str]:
    """Return the rows asked for and none's, each with its cache; DataError for an unknown one."""
    if unknown := [cache for cache in what.caches if cache not in PLAYED]:
        raise DataError(f'there is no cache {unknown[0]!r} to play; use '
                        + ', '.join(map(repr, PLAYED)))
    caches = [cache for cache in PLAYED if not what.caches or cache in (NONE, *what.caches)]
    return {row: cache for cache in caches for row in (
        [f'{WARM} {level:g}' for level in what.levels] if cache == WARM else [cache])}


def playable(what: Closed) -> list[str]:
    """Return the rows of caches that do anything with this policy here."""
    rows = rows_of(what)
    controller, *_ = make_controller(Evaluation(what.policy, what.steps, what.engine,
                                                threads=what.threads))
    assert isinstance(controller, PolicyController)
    bundle, engine = read_bundle(what.policy), controller.loop.engine
    tiling = Tiling(bundle.spec, engine)
    tiling.prove()
    told = Caching.of(bundle, engine, tiling.exact)
    works = {BLOCKS: what.steps in told.blocks, THRESHOLD: told.tiles, SMALL: told.tiles}
    return [row for row, cache in rows.items() if works.get(cache, True)]


def make_sensed(what: Closed, cache: str) -> SensedController:
    """Return the policy's controller under a cache, with an engine of its own."""
    evaluation = Evaluation(what.policy, what.steps, what.engine, threads=what.threads)
    made, *_ = make_controller(evaluation)
    assert isinstance(made, PolicyController)
    loop = made.loop
    loop.tiling.least = 0 if cache == SMALL else loop.tiling.least
    loop.tiling.prove()
    loop.keep(replace(rules_of(cache, loop.rules.tiles), capacity=loop.rules.capacity,
                      warm_noise=what.warm_noise))
    return SensedController(loop, simulated(evaluation), what.noise, cache != NONE)


def rules_of(cache: str, off: Mapping[str, TileRule]) -> CacheRules:
    """Return the rules of a row, given those of tiles that are off."""
    if cache.startswith(WARM):
        return replace(CACHES[EXACT](off), warm_start=float(cache.removeprefix(WARM)))
    return CACHES[THRESHOLD if cache == SMALL else cache](off)


def stood(targets: np.ndarray, reach: np.ndarray) -> int:
    """Return for how many steps on end targets [N, A] stayed within `reach` [A] at most."""
    first = longest = 0
    for last in range(len(targets)):
        while (np.ptp(targets[first:last + 1], axis=0) > reach).any():
            first += 1
        longest = max(longest, last - first)
    return longest


_worker: dict[str, Any] = {}


def _prepare(given: tuple[Closed, Sequence[str]]) -> None:
    what, caches = given
    task = simulated(Evaluation(what.policy))
    _worker.update(task=task, robot=task.make(), controllers={
        cache: make_sensed(what, cache) for cache in caches})


def _work(seed: int) -> Played:
    task, robot = _worker['task'], _worker['robot']
    made: Played = {}
    for cache, controller in _worker['controllers'].items():
        episode = run_episode(controller, robot, seed, task=task)
        targets, spec = np.array(episode.targets), controller.loop.spec
        still = stood(targets, REACH * np.asarray(spec.action.scale)) / task.rate
        made[cache] = ({**outcome(episode), 'targets': targets.tobytes(), 'stood': still,
                        'turns': controller.turns}, controller.loop.cache_figures())
    return made


def bench_closed(what: Closed, seeds: Sequence[int], workers: int,
                 bar: Callable[..., Iterable[Played]] = tqdm) -> list[dict[str, Any]]:
    """Return one row per cache; `difference` is the mean paired one of the score to no cache.

    `unchanged` is the share of episodes whose actions are those without cache, bit for bit; the
    hit ratios are those of the process that played the last episode. `turn_p50` and `turn_mean`
    tell [unit] how far a plan's first action is from what the last chunk had due then, `stood_s`
    the longest that any episode's targets stayed within `runtime.warm.REACH` [s].
    """
    caches = playable(what)
    played = list(bar(in_processes(_prepare, (what, caches), _work, seeds,
                                   min(workers, len(seeds))),
                      total=len(seeds), unit='seed', desc=what.policy))
    none = [one[NONE][0] for one in played]
    return [{'what': 'cache', 'policy': read_bundle(what.policy).spec.name, 'engine': what.engine,
             'steps': what.steps, 'scene': 'closed loop', 'noise': what.noise, 'cache': cache,
             **_row([one[cache][0] for one in played], none, played[-1][cache][1])}
            for cache in caches]


def _row(ours: list[dict[str, Any]], none: list[dict[str, Any]],
         told: Mapping[str, object]) -> dict[str, Any]:
    found, pair = summarise(ours), paired_difference(ours, none)
    same = [a['targets'] == b['targets'] for a, b in zip(ours, none)]
    known = {name: share for name, share in told.items() if share == share}  # not of nothing
    turns = np.concatenate([one['turns'] for one in ours])
    tiles = [share for name, share in known.items()
             if name.startswith('tiles.') and name.endswith('.hit_ratio')]
    return {**{key: found[key] for key in (
        'episodes', 'mean_max_coverage', 'ci95', 'success_rate', 'jerk')},
        'difference': pair['difference'], 'difference_ci95': pair['ci95'],
        'unchanged': float(np.mean(same)), 'stood_s': max(one['stood'] for one in ours),
        'turn_p50': float(np.median(turns)), 'turn_mean': float(np.mean(turns)),
        'hit_ratio': next(iter(tiles), None),
        'blocks_hit_ratio': known.get('blocks.hit_ratio')}
