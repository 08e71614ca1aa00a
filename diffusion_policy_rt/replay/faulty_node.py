"""The policy node with an engine that fails when `~/engine_fault` says so: `ENGINE_FAULTS`.

Everything but the engine's answers is the node that drives robots. An empty string is the engine
as it is; what it was asked for while it hung it answers then.
"""

from __future__ import annotations

import math
import sys
import threading
from typing import Any

import numpy as np
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn
from std_msgs.msg import String

from diffusion_policy_rt.ros.policy_node import PolicyNode
from diffusion_policy_rt.ros.spin import run
from diffusion_policy_rt.runtime.ports import Engine

RAISES, NOT_FINITE, HANGS = ENGINE_FAULTS = ('raises', 'not_finite', 'hangs')


class FaultyEngine:
    """Implements `runtime.ports.Engine` by another, while `fault` leaves its denoiser alone."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self.encode = engine, engine.encode
        self.name, self.dtypes, self.executed = engine.name, engine.dtypes, engine.executed
        self.fault = ''
        self._sound = threading.Event()
        self._sound.set()

    def set(self, fault: str) -> None:
        """Do what `fault` says from the next call on."""
        self.fault = fault
        (self._sound.clear if fault == HANGS else self._sound.set)()

    def denoise(self, x: np.ndarray, sigma: float, cond: np.ndarray,
                stop: float = 0.0) -> np.ndarray:
        """Estimate the clean chunk, float64 [H, A], or fail."""
        self._sound.wait()
        if self.fault == RAISES:
            raise RuntimeError('out of memory')
        made = self._engine.denoise(x, sigma, cond, stop)
        return made * math.nan if self.fault == NOT_FINITE else made


class FaultyNode(PolicyNode):
    """A policy node whose engine can be told to fail."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._faulty: FaultyEngine | None = None
        self.create_subscription(String, '~/engine_fault', self._set_fault, 10)

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Configure, and put the engine into one that can fail."""
        done = super().on_configure(state)
        if self._runner is not None and not self.get_parameter('engine_process').value:
            self._faulty = FaultyEngine(self._runner.loop.engine)
            self._runner.loop.engine = self._faulty
        return done

    def _set_fault(self, msg: String) -> None:
        if self._faulty is not None:
            self._faulty.set(msg.data)


def main(args: list[str] | None = None) -> int:
    """Run the node until it is interrupted; return the exit code."""
    return run(FaultyNode, args)


if __name__ == '__main__':
    sys.exit(main())
