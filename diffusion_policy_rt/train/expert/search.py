"""The expert's search: of what a policy proposes, what brings the block nearest to the goal.

The simulator tells exactly what a chunk would do. Most of the time the best of a policy's own
chunks is good enough, so the demonstrations move as the policy's do and are easy to learn from;
near the goal small changes of them are tried too; and where nothing helps - the block at a wall,
where human demonstrations never are - straight pushes from all around.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from diffusion_policy_rt.sim.block import middle
from diffusion_policy_rt.sim.pusht import PushT
from diffusion_policy_rt.sim.rollout import Rollout, distance

REFINED_BELOW = 40.0
"""Distance from the goal [px] below which proposals are refined."""
PUSH_STEPS, PUSH_EXECUTED = 30, 24
"""Control steps of a straight push, and how many of them are executed."""


@dataclass(frozen=True)
class Search:
    """How widely the expert searches."""

    proposals: int = 32
    """Chunks asked of the policy."""
    refined: int = 4
    """Best proposals that are changed..."""
    changes: int = 12
    """...each so many times."""
    pushes: int = 100
    """Straight pushes tried once nothing helped."""
    patience: int = 1
    """Plans without progress after which pushes are tried."""
    progress: float = 0.04
    """Share of the distance to the goal by which a plan must shorten it to count."""


def bends(rng: np.random.Generator, count: int, steps: int, deviation: float) -> np.ndarray:
    """Draw smooth offsets [count, steps, 2] px: straight lines between four normal points."""
    knots = rng.standard_normal((count, 4, 2)) * deviation
    t = np.linspace(0, 3, steps)
    left = np.minimum(t.astype(int), 2)
    share = (t - left)[None, :, None]
    return knots[:, left] * (1 - share) + knots[:, left + 1] * share


def straight_push(rng: np.random.Generator, tool: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """Draw targets [PUSH_STEPS, 2] px: to a point near the block, then towards it and through.

    Six times in ten the tool goes round by a point further out.
    """
    at = middle(pose)
    angle, radius = rng.uniform(0, 2 * np.pi), rng.uniform(30, 120)
    begin = np.clip(at + radius * _unit(angle), 10, 502)
    heading = angle + np.pi + rng.normal() * 0.7
    end = np.clip(begin + rng.uniform(40, 200) * _unit(heading), 5, 507)
    speed, way = rng.uniform(12, 30), [tool]
    if rng.random() < 0.6:
        turn, reach = rng.uniform(-1.5, 1.5), rng.uniform(100, 160)
        way.append(np.clip(at + reach * _unit(angle + turn), 8, 504))
    return _along([*way, begin, end], speed)


def _unit(angle: float) -> np.ndarray:
    return np.array([np.cos(angle), np.sin(angle)])


def _along(way: list[np.ndarray], speed: float) -> np.ndarray:
    points: list[np.ndarray] = []
    for a, b in zip(way, way[1:]):
        count = max(1, int(np.ceil(np.linalg.norm(b - a) / speed)))
        points += [a + (b - a) * (k + 1) / count for k in range(count)]
    return np.array((points + [points[-1]] * PUSH_STEPS)[:PUSH_STEPS])


class Expert:
    """Plans for one simulated robot, whose state it knows."""

    def __init__(self, propose: Callable[[int, np.random.Generator], np.ndarray], execute: int,
                 how: Search) -> None:
        """`propose` draws chunks [N, T, 2] px; `execute` of their actions are carried out."""
        self._propose, self._execute, self.how = propose, execute, how
        self._rollout = Rollout()
        self.begin()

    def begin(self) -> None:
        """Forget the last episode."""
        self._waited, self._nearest = 0, np.inf

    def _costs(self, robot: PushT, chunks: np.ndarray) -> np.ndarray:
        """Half the least distance on the way and half the last, [N] px."""
        start = Rollout.snapshot(robot)
        ways = np.array([distance(self._rollout.run(start, chunk)) for chunk in chunks])
        return 0.5 * (ways.min(1) + ways[:, -1])

    def plan(self, robot: PushT, rng: np.random.Generator) -> np.ndarray:
        """Return the targets to follow next, [K, 2] px."""
        how, now = self.how, float(distance(robot.block))
        least = how.progress * now + 0.02
        chunks = self._propose(how.proposals, rng)
        costs = self._costs(robot, chunks)
        order = np.argsort(costs)[:how.refined]
        best, cost = chunks[order[0]], costs[order[0]]
        if cost > now - least:  # none helps: the policy's own mind, where it does no harm
            harmless = np.flatnonzero(costs <= now + least)
            if len(harmless):
                best, cost = chunks[harmless[0]], costs[harmless[0]]
        count = self._execute
        if now < REFINED_BELOW:
            bent = np.concatenate([chunks[i] + bends(rng, how.changes, chunks.shape[1],
                                                     float(np.clip(now / 2, 2, 8)))
                                   for i in order])
            best, cost, _ = self._better(robot, bent, best, cost, least)
        if self._waited >= how.patience:
            pushes = np.array([straight_push(rng, robot.tool, robot.block)
                               for _ in range(how.pushes)])
            best, cost, pushed = self._better(robot, pushes, best, cost, least)
            count = PUSH_EXECUTED if pushed else count
        self._note(now)
        return np.clip(best[:count], 0, 512)

    def _better(self, robot: PushT, chunks: np.ndarray, best: np.ndarray, cost: float,
                least: float) -> tuple[np.ndarray, float, bool]:
        costs = self._costs(robot, chunks)
        index = int(costs.argmin())
        if costs[index] < cost - least:
            return chunks[index], costs[index], True
        return best, cost, False

    def _note(self, now: float) -> None:
        nearer = now <= self._nearest - self.how.progress * now
        self._waited = 0 if nearer else self._waited + 1
        self._nearest = min(self._nearest, now)
