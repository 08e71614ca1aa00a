"""An engine in a process of its own: when it dies or hangs that costs plans, and never the node.

    planner thread  --(encode, camera, image)-->  child: load_engine(bundle)
                    <--(True, latent)-----------

The child is started with a socket and nothing else of this process, so it imports no ROS; it ends
when the socket does, however this process ended.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from diffusion_policy_rt.engines.bundle import Bundle, read_bundle
from diffusion_policy_rt.engines.load import load_engine
from diffusion_policy_rt.errors import EngineError

LOAD_S = 1800.0
"""How long an engine may take to load; some are compiled then [s]."""


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
        return self._call('denoise', x, sigma, cond, stop)

    def close(self) -> None:
        """End the child, even in the middle of a call."""
        self._process.kill()
        self._process.wait()

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, '-m', __name__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()])
        self._line = Connection(ours.detach())
        self.name, self.dtypes, self.executed = self._ask(LOAD_S, *self._wish)

    def _call(self, *request: Any) -> np.ndarray:
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
            fine, answer = self._line.recv()
        except (OSError, EOFError) as error:
            self.close()
            raise EngineError(f'the engine\'s process failed ({error or "it ended"}); it is '
                              'started again') from error
        if not fine:
            raise EngineError(answer)
        return answer


# -- the child ---------------------------------------------------------------------------------

def serve(line: Connection) -> None:
    """Load the engine that is asked for first, then answer calls until the line ends."""
    folder, digest, name, threads = line.recv()
    try:
        bundle = read_bundle(folder)
        if bundle.digest != digest:
            raise EngineError(f'{folder} is not the bundle that was read; configure again')
        engine = load_engine(bundle, name, threads)
    except Exception as error:  # whatever it is, the parent tells it
        line.send((False, str(error)))
        return
    line.send((True, (engine.name, dict(engine.dtypes), dict(engine.executed))))
    while True:
        method, *arguments = line.recv()
        try:
            line.send((True, getattr(engine, method)(*arguments)))
        except Exception as error:
            line.send((False, f'{type(error).__name__}: {error}'))


if __name__ == '__main__':
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    try:
        serve(Connection(int(sys.argv[1])))
    except (EOFError, OSError):
        pass
