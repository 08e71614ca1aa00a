"""What would happen: a second simulator, put into the state of the first and run ahead."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from diffusion_policy_rt.sim.block import GOAL, keypoints
from diffusion_policy_rt.sim.pusht import PushT

Pair = tuple[float, float]
_GOAL_POINTS = keypoints(GOAL)


class Snapshot(NamedTuple):
    """Everything that the physics goes on from."""

    tool: Pair
    tool_velocity: Pair
    block: Pair
    block_angle: float
    block_velocity: Pair
    block_spin: float


def distance(pose: np.ndarray) -> np.ndarray:
    """Return how far blocks at poses [..., 3] are from the goal: RMS over the keypoints [px]."""
    return np.sqrt(((keypoints(pose) - _GOAL_POINTS) ** 2).sum(-1).mean(-1))


class Rollout:
    """A simulator for trying targets out."""

    def __init__(self) -> None:
        self._robot = PushT()
        self._robot.reset(0)
        self._env = self._robot._env

    @staticmethod
    def snapshot(robot: PushT) -> Snapshot:
        """Return the state of another simulator."""
        tool, block = robot._env.agent, robot._env.block
        return Snapshot(tuple(tool.position), tuple(tool.velocity), tuple(block.position),
                        block.angle, tuple(block.velocity), block.angular_velocity)

    def run(self, start: Snapshot, targets: np.ndarray) -> np.ndarray:
        """Return the block's pose [T, 3] after each control step towards targets [T, 2]."""
        self._restore(start)
        poses = []
        for target in targets.tolist():
            self._robot.step(target)
            poses.append(self._robot.block)
        return np.array(poses)

    def _restore(self, start: Snapshot) -> None:
        env = self._env
        env.agent.position, env.agent.velocity = start.tool, start.tool_velocity
        env.block.angle = start.block_angle  # first: it turns about the centre of gravity
        env.block.position, env.block.velocity = start.block, start.block_velocity
        env.block.angular_velocity = start.block_spin
        for body in (env.block, env.agent):
            env.space.reindex_shapes_for_body(body)
