"""Demonstrations by the expert: episodes to a data set that `dprt train` reads."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffusion_policy_rt.engines.bundle import read_bundle
from diffusion_policy_rt.files import whole_file
from diffusion_policy_rt.replay.evaluate import check_task
from diffusion_policy_rt.sim.block import keypoints
from diffusion_policy_rt.sim.pusht import MAX_STEPS, SUCCESS, PushT
from diffusion_policy_rt.train.expert.proposals import Proposals
from diffusion_policy_rt.train.expert.search import Expert, Search

STARTS = ('published', 'anywhere')
"""Where episodes start: as the published ones do, or with the block anywhere, walls included."""


@dataclass(frozen=True)
class Collection:
    """What is collected, and how."""

    policy: str
    """The bundle whose chunks are searched."""
    steps: int = 4
    """Network calls per proposal."""
    starts: str = 'published'
    seed: int = 1
    """Of the search; episode i starts from a seed of its own."""
    search: Search = Search()


@dataclass(frozen=True)
class Demonstration:
    """One episode: T rows, each before its action."""

    seed: int
    images: np.ndarray
    """uint8 [T, 96, 96, 3] RGB."""
    state: np.ndarray
    """float32 [T, 5]: tool x, y, block x, y [px], angle [rad]; the published columns."""
    action: np.ndarray
    """float32 [T, 2] px."""
    coverage: float
    """The largest reached."""

    @property
    def success(self) -> bool:
        """Whether the goal was reached."""
        return self.coverage > SUCCESS


def start(robot: PushT, seed: int, where: str) -> None:
    """Start an episode; `anywhere` puts block and tool in the square, touching nothing."""
    robot.reset(seed)
    rng = np.random.default_rng((7, seed))
    while where == 'anywhere':
        tool, pose = rng.uniform(20, 492, 2), np.array([*rng.uniform(20, 492, 2),
                                                        rng.uniform(-np.pi, np.pi)])
        points = keypoints(pose)
        if points.min() > 8 and points.max() < 504 and _rests(robot, tool, pose):
            return


def _rests(robot: PushT, tool: np.ndarray, pose: np.ndarray) -> bool:
    robot.place(tool, pose)
    robot.step(tool)  # what overlaps is pushed apart
    moved = np.abs(robot.block - pose).max()
    robot.place(tool, pose)
    return bool(moved < 1e-6)


class Collector:
    """One process's simulator, policy and expert."""

    def __init__(self, what: Collection) -> None:
        torch.set_num_threads(1)
        spec = (bundle := read_bundle(what.policy)).spec
        check_task(spec, bundle.folder)
        self.what, self.robot = what, PushT()
        self.proposals = Proposals(bundle, what.steps)
        self.expert = Expert(self.proposals.chunks, spec.n_action_steps, what.search)

    def episode(self, seed: int) -> Demonstration:
        """Run the episode of `seed`, ended by success or after 300 control steps."""
        robot, rng = self.robot, np.random.default_rng((self.what.seed, seed))
        start(robot, seed, self.what.starts)
        self.proposals.begin()
        self.expert.begin()
        images: list[np.ndarray] = []
        rows: list[tuple[float, ...]] = []
        queue: list[np.ndarray] = []
        best = 0.0
        while len(rows) < MAX_STEPS and best <= SUCCESS:
            images.append(robot.render())
            self.proposals.observe(images[-1], robot.tool)
            queue = queue or list(self.expert.plan(robot, rng))
            target = queue.pop(0)
            rows.append((*robot.tool, *robot.block, *target))
            robot.step(target)
            best = max(best, robot.coverage())
        table = np.array(rows, np.float32)
        return Demonstration(seed, np.array(images), table[:, :5], table[:, 5:], best)


_worker: dict[str, Any] = {}


def _prepare(what: Collection) -> None:
    _worker['collector'] = Collector(what)


def _work(seed: int) -> Demonstration:
    return _worker['collector'].episode(seed)


def collect(what: Collection, seeds: Iterable[int], workers: int) -> Iterator[Demonstration]:
    """Yield the episodes of `seeds` in order, run in `workers` processes."""
    # spawned, not forked: torch and SDL hold threads
    with multiprocessing.get_context('spawn').Pool(workers, _prepare, (what,)) as pool:
        yield from pool.imap(_work, seeds)


def write_dataset(path: Path, demonstrations: list[Demonstration]) -> None:
    """Write episodes as one npz with the published streams, whole or not at all.

    `success` [N] is 1 in the row whose action reached the goal.
    """
    states = np.concatenate([d.state for d in demonstrations])
    ends = np.cumsum([len(d.action) for d in demonstrations])
    success = np.zeros(len(states), np.uint8)
    success[ends - 1] = [d.success for d in demonstrations]
    streams: dict[str, Any] = {
        'img': np.concatenate([d.images for d in demonstrations]), 'state': states,
        'action': np.concatenate([d.action for d in demonstrations]),
        'keypoint': keypoints(states[:, 2:]).astype(np.float32),
        'success': success, 'episode_ends': ends}
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial, partial.open('wb') as file:
        np.savez_compressed(file, **streams)
