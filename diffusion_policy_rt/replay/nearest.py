"""The one-nearest-neighbour floor: no learning, only the demonstrations looked up.

It knows the simulator's true state. A policy that sees pictures should beat it; one that does not
has learnt less than what stands in its data.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from diffusion_policy_rt.errors import DataError
from diffusion_policy_rt.sim.block import KEYPOINTS, keypoints
from diffusion_policy_rt.sim.pusht import PushT
from diffusion_policy_rt.sim.tasks import SimulatedRobot

ACTIONS = 8
"""Recorded actions replayed before the next look-up: what the published policies execute."""


@dataclass(frozen=True, eq=False)
class Demonstrations:
    """Recorded Push-T episodes, N rows at 10 Hz."""

    keypoints: np.ndarray
    """float32 [N, 9, 2] [px]"""
    tools: np.ndarray
    """float32 [N, 2]: position of the tool [px]."""
    actions: np.ndarray
    """float32 [N, 2]: target of the tool [px]."""
    episode_ends: np.ndarray
    """int64 [E]: exclusive end row of each episode."""

    def __post_init__(self) -> None:
        shapes = {'keypoints': KEYPOINTS.shape, 'tools': (2,), 'actions': (2,)}
        for name, shape in shapes.items():
            found = getattr(self, name).shape
            if found != (self.episode_ends[-1], *shape):
                raise DataError(f'nearest: {name} have shape {list(found)}, expected '
                                f'{[int(self.episode_ends[-1]), *shape]}; give the published '
                                'Push-T demonstrations')


class NearestController:
    """Replays the actions recorded at the demonstrated state that is nearest."""

    def __init__(self, demonstrations: Demonstrations, execute: int = 0) -> None:
        self._actions, self._count = demonstrations.actions, execute or ACTIONS
        self._rows = whole_rows(demonstrations.episode_ends, self._count)
        self._features = features(demonstrations.keypoints, demonstrations.tools)[self._rows]
        self._planned: list[np.ndarray] = []
        self.seams: list[int] = []

    def begin(self, seed: int) -> None:
        """Forget what is left of the last look-up."""
        self._planned, self.seams = [], []

    def target(self, step: int, robot: SimulatedRobot) -> np.ndarray:
        """Return the next recorded target, [2] px; looks up anew when they are used up."""
        assert isinstance(robot, PushT)
        if not self._planned:
            row = self.nearest(keypoints(robot.block), robot.tool)
            self.seams += [step] if step else []
            self._planned = list(self._actions[row:row + self._count])
        return self._planned.pop(0)

    def nearest(self, points: np.ndarray, tool: np.ndarray) -> int:
        """Return the row nearest to keypoints [9, 2] and tool [2] that has actions enough."""
        distances = ((self._features - features(points, tool))**2).sum(-1)
        return int(self._rows[distances.argmin()])


def whole_rows(episode_ends: np.ndarray, count: int) -> np.ndarray:
    """Return the rows from which `count` actions are left in their episode, int64."""
    starts = np.concatenate(([0], episode_ends[:-1]))
    rows = [np.arange(start, end - count + 1) for start, end in zip(starts, episode_ends)]
    found = np.concatenate(rows)
    if not len(found):
        raise DataError(f'nearest: no demonstration has {count} actions; execute fewer')
    return found


def features(points: np.ndarray, tools: np.ndarray) -> np.ndarray:
    """Join keypoints [..., 9, 2] and tools [..., 2] to [..., 20] [px].

    The keypoints are scaled so that all of them together weigh as much as the tool: their mean
    squared distance plus the tool's.
    """
    weight = points.shape[-2]**-0.5
    return np.concatenate([weight * points.reshape(*points.shape[:-2], -1), tools], -1)
