"""An engine in a process of its own: when it dies or hangs that costs plans, and never the node.

    planner thread  --(encode, camera, image)-->  child: `engine_child`, load_engine(bundle)
                    <--(True, latent, counts)---

The child is started with a socket and nothing else of this process, so it imports no ROS; it ends
when the socket does, however this process ended. Tiles are found, and images held, on this side:
an image that stands costs no call, and a child that is started again has lost nothing of them.
Conditions and the branches of a plan are kept in the child, next to what computes them.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from diffusion_policy_rt.engines.bundle import Bundle
from diffusion_policy_rt.errors import EngineError
from diffusion_policy_rt.runtime.ports import Denoiser, Stage, Staged
from diffusion_policy_rt.spec import Schedule

CHILD = 'diffusion_policy_rt.ros.engine_child'
LOAD_S = 1800.0
"""How long an engine may take to load; some are compiled then [s]."""


@dataclass
class ChildConditions:
    """Implements `runtime.ports.Conditions`: the child's, as its answers told."""

    keeps: bool = True
    hits: int = 0
    misses: int = 0


class EngineProcess:
    """Implements `runtime.ports.Engine` by calls to a child."""

    def __init__(self, bundle: Bundle, engine: str, threads: int,
                 patience_s: float = 10.0) -> None:
        """Start the child and load the engine there; EngineError when that fails."""
        self._wish, self.patience_s = (bundle.folder, bundle.digest, engine, threads), patience_s
        # a planner that was given up may still wait for an answer when the next one asks
        self._lock = threading.Lock()
        self.restarts = 0
        """How often the child was started again."""
        self._plans = 0
        self._conditions, self.blocks = ChildConditions(), Counter[str]()
        self._start()
        # started again it is the same engine, not one that auto may choose at a worse moment
        self._wish = (bundle.folder, bundle.digest, self.name, threads)

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    def encode(self, camera: str, image: np.ndarray) -> np.ndarray:
        """Encode float32 [3, h, w] to float32 [L]; EngineError when the child does not answer."""
        return self._call('encode', camera, image)

    def denoise(self, x: np.ndarray, sigma: float, cond: np.ndarray,
                stop: float = 0.0) -> np.ndarray:
        """Estimate the clean chunk, float64 [H, A]; EngineError when the child does not answer."""
        return self._call('denoise', self._conditions.keeps, x, sigma, cond, stop)

    @property
    def conditioned(self) -> ChildConditions | None:
        """What the child keeps of conditions; None where its denoiser runs as a whole only."""
        return self._conditions if self._in_parts else None

    def blockwise(self, schedule: Schedule) -> Denoiser | None:
        """Return the denoiser of one plan; None for levels that the bundle has no blocks for."""
        if schedule not in self._blockwise:
            return None
        self._plans += 1
        return PlanInChild(partial(self._call, 'step', self._plans, schedule,
                                   self._conditions.keeps))

    def staged(self, camera: str) -> Staged | None:
        """Return the camera's encoder as its stages, each a call to the child."""
        stages = self._call('stages', camera)
        if stages is None:
            return None
        run = partial(self._call, 'stage', camera)
        return Staged(tuple(Stage(fields, partial(run, number))
                            for number, fields in enumerate(stages)), partial(run, len(stages)))

    def close(self) -> None:
        """End the child, even in the middle of a call."""
        self._process.kill()
        self._process.wait()

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, '-m', CHILD, str(theirs.fileno())],
                pass_fds=[theirs.fileno()])
        self._line = Connection(ours.detach())
        (self.name, self.dtypes, self.executed, self._in_parts,
         self._blockwise) = self._ask(LOAD_S, *self._wish)

    def _call(self, *request: Any) -> Any:
        with self._lock:
            if self._process.poll() is not None:
                self.restarts += 1
                self._start()
            return self._ask(self.patience_s, *request)

    def _ask(self, seconds: float, *request: Any) -> Any:
        """Return the answer; a child without one is ended, and the next call starts another."""
        try:
            self._line.send(request)
            if not self._line.poll(seconds):
                raise OSError(f'no answer within {seconds:g} s')
            fine, answer, counts = self._line.recv()
        except (OSError, EOFError) as error:
            self.close()
            raise EngineError(f'the engine\'s process failed ({error or "it ended"}); it is '
                              'started again') from error
        self._conditions.hits += counts['hits']
        self._conditions.misses += counts['misses']
        self.blocks.update({kind: counts[kind] for kind in ('computed', 'kept') if counts[kind]})
        if not fine:
            raise EngineError(answer)
        return answer


class PlanInChild:
    """Implements `runtime.ports.Denoiser`: one plan, whose branches the child keeps."""

    def __init__(self, step: Callable[..., np.ndarray]) -> None:
        self._step, self._calls = step, 0

    def denoise(self, x: np.ndarray, sigma: float, cond: np.ndarray,
                stop: float = 0.0) -> np.ndarray:
        """Make the plan's next call; EngineError where the child was started again meanwhile."""
        self._calls += 1
        return self._step(self._calls, x, sigma, cond, stop)
