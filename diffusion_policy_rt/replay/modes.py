"""Mode coverage: whether a few-step policy goes round the block both ways, as its teacher does.

A score hides it: a student that always goes left scores like a teacher that goes either way.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffusion_policy_rt.errors import DataError, EngineError, SpecError
from diffusion_policy_rt.replay.episode import PolicyController
from diffusion_policy_rt.replay.evaluate import (
    Evaluation, in_processes, make_controller, simulated)
from diffusion_policy_rt.runtime.frame import Frame, to_input
from diffusion_policy_rt.runtime.loop import PolicyLoop
from diffusion_policy_rt.runtime.observation import Observation
from diffusion_policy_rt.sim.block import middle
from diffusion_policy_rt.sim.crossroads import crossroads
from diffusion_policy_rt.sim.pusht import PushT
from diffusion_policy_rt.sim.tasks import PUSHT

Policy = tuple[PolicyLoop, int]
"""A policy and the network calls of each of its plans."""
DRAWS = 64
"""Chunks per state."""
MARGIN = 30.0
"""A chunk that ends nearer than this to the line from tool to block goes neither way [px]."""
SPLIT, STRAIGHT = 0.15, 1 / 3
"""The teacher's chunks split where each way has at least SPLIT and neither at most STRAIGHT."""
OFFSETS, PROBES = np.linspace(-60, 60, 13), 8
"""Where each state is looked for [px], and chunks drawn for each look."""
KEPT = 1 / 3
"""A mode is kept where the student's share of it is at least this part of the teacher's."""


def sideways(chunks: np.ndarray, tool: np.ndarray, block: np.ndarray) -> np.ndarray:
    """Return how far each chunk [N, H, 2] ends beside the line from tool [2] to block [2].

    float64 [N] [px]; positive where the way turns from the image's x towards its y.
    """
    line = (block - tool) / np.linalg.norm(block - tool)
    end = chunks[:, -1] - tool
    return line[0] * end[:, 1] - line[1] * end[:, 0]


def shares(chunks: np.ndarray, tool: np.ndarray, block: np.ndarray) -> np.ndarray:
    """Return the share of chunks [N, H, 2] that go one way and the other, float64 [2]."""
    offset = sideways(chunks, tool, block)
    return np.array([(offset >= MARGIN).mean(), (offset <= -MARGIN).mean()])


def draw(loop: PolicyLoop, robot: PushT, steps: int, count: int = DRAWS) -> np.ndarray:
    """Return chunks of the robot at rest under `count` different noises, [count, H, 2] px."""
    spec = loop.spec
    frame = Frame.of(spec.cameras[0].name, 0, robot.render())
    latent = loop.engine.encode(frame.camera, to_input(frame.decode(), spec.cameras[0]))
    states, latents = np.array([robot.tool] * spec.n_obs), {frame.camera: [latent] * spec.n_obs}
    chunks = [loop.sample(Observation(k, {}, states, 0), latents, steps) for k in range(count)]
    if any(chunk is None for chunk in chunks):
        raise EngineError('the engine returned a value that is not finite')
    return np.array([chunk.actions for chunk in chunks if chunk is not None])


def way_shares(policy: Policy, robot: PushT, seed: int, offset: float,
               count: int = DRAWS) -> np.ndarray:
    """Return the two shares [2] of the policy's chunks at the crossroads of seed and offset."""
    tool, pose = crossroads(seed, offset)
    robot.place(tool, pose)
    return shares(draw(policy[0], robot, policy[1], count), robot.tool, middle(pose))


def watershed(policy: Policy, robot: PushT, seed: int) -> float:
    """Return the offset [px] where the policy's chunks split most evenly, of a row of offsets.

    A policy that fits its demonstrations closely goes both ways in few states only: they lie
    between those where it goes one way and those where it goes the other.
    """
    evenness = [way_shares(policy, robot, seed, offset, PROBES).min() for offset in OFFSETS]
    return float(OFFSETS[int(np.argmax(evenness))])


@dataclass(frozen=True)
class Crossroads:
    """A state that was looked for by a teacher, and how the teacher's chunks split there."""

    seed: int
    offset: float
    teacher: tuple[float, float]

    @property
    def splits(self) -> bool:
        """Whether the teacher goes both ways."""
        return min(self.teacher) >= SPLIT and 1 - sum(self.teacher) <= STRAIGHT


_worker: dict[str, Any] = {}


def _prepare(what: Evaluation) -> None:
    _worker.update(policy=make_loop(what), robot=PushT())


def _search(seed: int) -> Crossroads:
    policy, robot = _worker['policy'], _worker['robot']
    offset = watershed(policy, robot, seed)
    one, other = way_shares(policy, robot, seed, offset)
    return Crossroads(seed, offset, (float(one), float(other)))


def _shares(state: Crossroads) -> np.ndarray:
    return way_shares(_worker['policy'], _worker['robot'], state.seed, state.offset)


def search(teacher: Evaluation, seeds: Iterable[int], workers: int) -> Iterator[Crossroads]:
    """Yield the crossroads of the seeds, each at the teacher's watershed; in processes."""
    yield from in_processes(_prepare, teacher, _search, seeds, workers)


def compare(student: Evaluation, states: Sequence[Crossroads], workers: int) -> dict[str, Any]:
    """Return `kept_modes` of a student; it draws only where the teacher's chunks split."""
    shares, split = np.zeros((len(states), 2)), [s.splits for s in states]
    drawn = list(in_processes(_prepare, student, _shares,
                              [s for s in states if s.splits], workers))
    if drawn:
        shares[split] = drawn
    return kept_modes(shares, np.array([s.teacher for s in states]), [s.seed for s in states])


def make_loop(what: Evaluation) -> Policy:
    """Return the policy's loop and its steps.

    Raises DataError for a floor, which draws no chunks, SpecError for another robot's policy.
    """
    controller, steps, _ = make_controller(what)
    if not isinstance(controller, PolicyController):
        raise DataError(f'{what.policy} draws no chunks; modes are counted of bundles')
    if simulated(what) is not PUSHT:
        raise SpecError(f'{what.policy} is no policy of Push-T, where modes are counted')
    return controller.loop, steps


def kept_modes(student: np.ndarray, teacher: np.ndarray, seeds: Sequence[int]) -> dict[str, Any]:
    """Return the share of the teacher's modes that the student keeps, and how it splits.

    Both are shares [S, 2] over the same states; those count where the teacher's chunks split.
    """
    split = np.array([Crossroads(0, 0, tuple(pair)).splits for pair in teacher])
    if not split.any():
        raise DataError(f'the teacher goes both ways in none of {len(seeds)} states; use more '
                        'states or another teacher')
    student, teacher = student[split], teacher[split]
    kept = student >= KEPT * teacher
    return {
        'states': int(split.sum()), 'candidates': len(seeds),
        'modes': int(kept.size), 'modes_kept': int(kept.sum()),
        'mode_coverage': float(kept.mean()), 'both_kept': float(kept.all(1).mean()),
        'minority_share': float(student.min(1).mean()),
        'teacher_minority_share': float(teacher.min(1).mean()),
        'straight_share': float(1 - student.sum(1).mean()),
        'per_state': [{'seed': int(seed), 'student': s.tolist(), 'teacher': t.tolist()}
                      for seed, s, t in zip(np.array(seeds)[split], student, teacher)]}
