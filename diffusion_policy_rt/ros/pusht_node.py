"""`pusht_node`: the Push-T robot, joints x and y [px of the 512-wide task], camera `front`."""

from __future__ import annotations

import functools
import sys

from diffusion_policy_rt.ros.sim_node import SimNode
from diffusion_policy_rt.ros.spin import run
from diffusion_policy_rt.sim.tasks import PUSHT


def main(args: list[str] | None = None) -> int:
    """Run the node until it is interrupted or out of episodes; return the exit code."""
    return run(functools.partial(SimNode, PUSHT), args)


if __name__ == '__main__':
    sys.exit(main())
