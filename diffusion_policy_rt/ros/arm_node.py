"""`arm_node`: the simulated arm, seven joints and a gripper, cameras `front` and `wrist`."""

from __future__ import annotations

import functools
import sys

from diffusion_policy_rt.ros.sim_node import SimNode
from diffusion_policy_rt.ros.spin import run
from diffusion_policy_rt.sim.tasks import ARM


def main(args: list[str] | None = None) -> int:
    """Run the node until it is interrupted or out of episodes; return the exit code."""
    return run(functools.partial(SimNode, ARM), args)


if __name__ == '__main__':
    sys.exit(main())
