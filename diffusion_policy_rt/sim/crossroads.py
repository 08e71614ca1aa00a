"""States where the tool must go round the block, and both ways round are as good."""

from __future__ import annotations

import numpy as np

from diffusion_policy_rt.sim.block import GOAL, middle

DISPLACEMENT = (60.0, 120.0)
"""How far the block lies from its goal, along its stem [px]."""
DISTANCE = (90.0, 130.0)
"""How far the tool lies from the block's middle, on the wrong side [px]."""


def crossroads(seed: int, offset: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Return the tool [2] [px] and the block [3] (x, y [px], angle [rad]) of this seed.

    Square, goal and block are all but mirror images of themselves about the block's stem: the
    block is turned as its goal is and lies behind it, the tool in front of the bar, so that the
    tool must reach the end of the stem by the left or by the right. Small offsets of all of them
    keep the states apart; `offset` moves the tool on, across the stem [px].
    """
    rng = np.random.default_rng(seed)
    stem = np.array([-np.sin(GOAL[2]), np.cos(GOAL[2])])
    across = np.array([stem[1], -stem[0]])
    angle = GOAL[2] + rng.normal(0, 0.05)
    there = middle(GOAL) + rng.uniform(*DISPLACEMENT) * stem + rng.normal(0, 5) * across
    tool = there - rng.uniform(*DISTANCE) * stem + (rng.normal(0, 8) + offset) * across
    corner = there - middle(np.array([0.0, 0.0, angle]))
    return tool, np.array([*corner, angle])
