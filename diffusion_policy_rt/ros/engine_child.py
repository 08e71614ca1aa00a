"""The process that an `EngineProcess` starts: it loads an engine and answers calls."""

from __future__ import annotations

import signal
import sys
from collections import Counter
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from diffusion_policy_rt.engines.bundle import Bundle, read_bundle
from diffusion_policy_rt.engines.load import load_engine
from diffusion_policy_rt.errors import EngineError
from diffusion_policy_rt.runtime.caches import keep_conditions
from diffusion_policy_rt.runtime.ports import (
    BlockwiseEngine, ConditionedEngine, Denoiser, Engine, Staged, StagedEngine)
from diffusion_policy_rt.runtime.receptive import ReceptiveField
from diffusion_policy_rt.spec import Schedule


class Served:
    """An engine with what belongs to calls of several parts; its methods are what can be asked."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.encode = engine.encode
        self._staged: dict[str, Staged | None] = {}
        self._plan = 0
        self._blockwise: Denoiser | None = None
        self._told = Counter[str]()

    def denoise(self, keeps: bool, *given: Any) -> np.ndarray:
        """Call the denoiser, which may or may not keep what it makes of the condition."""
        keep_conditions(self.engine, keeps)
        return self.engine.denoise(*given)

    def step(self, plan: int, schedule: Schedule, keeps: bool, call: int,
             *given: Any) -> np.ndarray:
        """Make a call of a plan whose branches are kept; the first one begins it."""
        keep_conditions(self.engine, keeps)
        if call == 1:
            self._plan, self._blockwise = plan, blockwise(self.engine, schedule)
        if plan != self._plan or self._blockwise is None:
            raise EngineError('what this plan kept ended with the process that it began in')
        return self._blockwise.denoise(*given)

    def stages(self, camera: str) -> list[tuple[ReceptiveField, ...]] | None:
        """Return what the layers of each stage of an encoder see; None without stages."""
        if camera not in self._staged:
            engine = self.engine
            self._staged[camera] = engine.staged(camera) if (
                isinstance(engine, StagedEngine)) else None
        staged = self._staged[camera]
        return None if staged is None else [stage.fields for stage in staged.stages]

    def stage(self, camera: str, number: int, x: np.ndarray) -> np.ndarray:
        """Run a stage, or what comes after the last one."""
        self.stages(camera)  # of a process that was started again
        staged = self._staged[camera]
        assert staged is not None
        return (*(stage.run for stage in staged.stages), staged.head)[number](x)

    def counts(self) -> Counter[str]:
        """Return what was kept and what was not since the last answer."""
        engine, now = self.engine, Counter[str]()
        if isinstance(engine, ConditionedEngine) and engine.conditioned is not None:
            now.update(hits=engine.conditioned.hits, misses=engine.conditioned.misses)
        if isinstance(engine, BlockwiseEngine):
            now.update(engine.blocks)
        new, self._told = now - self._told, now
        return new


def blockwise(engine: Engine, schedule: Schedule) -> Denoiser | None:
    """Return an engine's denoiser of one plan that keeps branches, where it has one."""
    return engine.blockwise(schedule) if isinstance(engine, BlockwiseEngine) else None


def introduction(engine: Engine, bundle: Bundle) -> tuple[Any, ...]:
    """Return what the parent is told of an engine before any call."""
    in_parts = isinstance(engine, ConditionedEngine) and engine.conditioned is not None
    return (engine.name, dict(engine.dtypes), dict(engine.executed), in_parts,
            [schedule for schedule in bundle.spec.schedules.values()
             if blockwise(engine, schedule) is not None])


def serve(line: Connection) -> None:
    """Load the engine that is asked for first, then answer calls until the line ends."""
    folder, digest, name, threads = line.recv()
    try:
        bundle = read_bundle(folder)
        if bundle.digest != digest:
            raise EngineError(f'{folder} is not the bundle that was read; configure again')
        served = Served(load_engine(bundle, name, threads))
        line.send((True, introduction(served.engine, bundle), Counter()))
    except Exception as error:  # whatever it is, the parent tells it
        line.send((False, str(error), Counter()))
        return
    while True:
        method, *arguments = line.recv()
        try:
            answer = True, getattr(served, method)(*arguments)
        except Exception as error:
            answer = False, f'{type(error).__name__}: {error}'
        line.send((*answer, served.counts()))


if __name__ == '__main__':
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    try:
        serve(Connection(int(sys.argv[1])))
    except (EOFError, OSError):
        pass
