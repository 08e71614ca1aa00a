"""Demonstrations by the expert: episodes to a data set that `dprt train` reads."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from diffusion_policy_rt.engines.bundle import read_bundle
from diffusion_policy_rt.errors import SpecError
from diffusion_policy_rt.files import whole_file
from diffusion_policy_rt.replay.evaluate import in_processes
from diffusion_policy_rt.sim.block import keypoints
from diffusion_policy_rt.sim.pusht import MAX_STEPS, SUCCESS, PushT
from diffusion_policy_rt.sim.tasks import PUSHT
from diffusion_policy_rt.train.expert.proposals import Proposals
from diffusion_policy_rt.train.expert.search import Expert, Search

WEIGHTS = 'weights.safetensors'
STARTS = ('published', 'anywhere')
"""Where episodes start: as the published ones do, or with the block anywhere, walls included."""


class Shown(Protocol):
    """One episode, whoever showed it; a dataclass of arrays and numbers."""

    @property
    def seed(self) -> int:
        """Of its start."""

    @property
    def success(self) -> bool:
        """Whether the goal was reached."""

    def streams(self) -> dict[str, np.ndarray]:
        """Return the rows by the name that the data set gives them, [T, ...] each."""


class Demonstrator(Protocol):
    """One process's simulator and expert."""

    def episode(self, seed: int) -> Any:
        """Run the episode of `seed` and return it."""


class Collecting(Protocol):
    """What is collected, and how."""

    def about(self) -> dict[str, Any]:
        """Return what the episodes depend on but their seeds, as JSON data."""

    def collector(self) -> Demonstrator:
        """Return what runs the episodes, in the process that calls."""

    def read(self, parts: dict[str, Any]) -> Shown:
        """Return the episode that was kept as these arrays and numbers."""


@dataclass(frozen=True)
class Collection:
    """What is collected on Push-T, and how."""

    policy: str
    """The bundle whose chunks are searched."""
    steps: int = 4
    """Network calls per proposal."""
    starts: str = 'published'
    seed: int = 1
    """Of the search; episode i starts from a seed of its own."""
    search: Search = Search()

    def about(self) -> dict[str, Any]:
        """Return what the episodes depend on: of the policy, its weights."""
        return {**dataclasses.asdict(self),
                'policy': read_bundle(self.policy).files[WEIGHTS]['sha256']}

    def collector(self) -> Collector:
        """Return what runs the episodes, in the process that calls."""
        return Collector(self)

    def read(self, parts: dict[str, Any]) -> Demonstration:
        """Return the demonstration that was kept as these arrays and numbers."""
        return Demonstration(**parts)


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

    def streams(self) -> dict[str, np.ndarray]:
        """Return the rows by the names of the published recordings.

        `success` [T] is 1 in the row whose action reached the goal.
        """
        success = np.zeros(len(self.action), np.uint8)
        success[-1] = self.success
        return {'img': self.images, 'state': self.state, 'action': self.action,
                'keypoint': keypoints(self.state[:, 2:]).astype(np.float32), 'success': success}


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
        if not PUSHT.serves(spec):
            raise SpecError(f'{bundle.folder} is no policy of Push-T; its search simulates only '
                            'Push-T')
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


def _prepare(what: Collecting) -> None:
    _worker['collector'] = what.collector()


def _work(seed: int) -> Shown:
    return _worker['collector'].episode(seed)


def collect(what: Collecting, seeds: Iterable[int], workers: int) -> Iterator[Shown]:
    """Yield the episodes of `seeds` in order, run in `workers` processes."""
    yield from in_processes(_prepare, what, _work, seeds, workers)


def write_dataset(path: Path, demonstrations: Sequence[Shown]) -> None:
    """Write episodes as one npz, whole or not at all."""
    shown = [d.streams() for d in demonstrations]
    streams: dict[str, Any] = {name: np.concatenate([rows[name] for rows in shown])
                               for name in shown[0]}
    streams['episode_ends'] = np.cumsum([len(rows['action']) for rows in shown])
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial, partial.open('wb') as file:
        np.savez_compressed(file, **streams)
