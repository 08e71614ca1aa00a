"""What goes wrong at a can: the hand comes down beside it, closes too soon, or lets it go."""

from __future__ import annotations

import numpy as np

from diffusion_policy_rt.sim.arm import Arm
from diffusion_policy_rt.sim.arm_expert import OPEN, REACH, SHUT, Expert
from diffusion_policy_rt.sim.arm_scene import CAN

_BESIDE, _ABOVE = 0.03, 0.06
"""Deviation of where the hand goes from the can's middle, and how high above the table [m]."""
_STEPS = (2, 9)
"""Control steps that it lasts: from, to before."""


def slip(arm: Arm, expert: Expert, rng: np.random.Generator) -> None:
    """Move the hand to a random place near the can, the fingers open or shut."""
    where = np.array([*(arm.can[:2] + rng.normal(0, _BESIDE, 2)), rng.uniform(CAN / 2, _ABOVE)])
    finger = rng.choice((SHUT, OPEN))
    for _ in range(rng.integers(*_STEPS)):
        way = where - arm.grip
        way *= min(1.0, REACH / max(1e-9, float(np.linalg.norm(way))))
        arm.step(np.append(expert.reach(arm.grip + way), finger))
