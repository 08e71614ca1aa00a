"""Time that passes only while nobody computes: the node's own driver and planner, offline.

The driver waits on this timeline, the planner's thread is one turn at a time with it, and the
engine is charged what it would have cost. Nothing depends on how fast this machine is.

    driver    T_k --- ask --- waits ---------------- cut-off, act, publish
    planner            | observe  encode(charge)  denoise(charge) .. done
    messages    .    .     .    .     .   each at the instant at which it was recorded
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from diffusion_policy_rt.runtime.loop import PolicyLoop
from diffusion_policy_rt.runtime.planner import Planner
from diffusion_policy_rt.runtime.ports import (
    BlockwiseEngine, ConditionedEngine, Denoiser, Engine, Staged, StagedEngine)
from diffusion_policy_rt.spec import Schedule


class Event(NamedTuple):
    """Something that happens at an instant."""

    at_ns: int
    happen: Callable[[int], None]
    """Called with the instant [ns]."""


class VirtualTimeline:
    """A `Timeline` and `Clock` that plays events, and one planner, in order of their instants."""

    def __init__(self) -> None:
        self._now = 0
        self._events: Iterator[Event] = iter(())
        self._next: Event | None = None
        self._alarm: int | None = None
        self._hurried = False
        self._turn, self._back = threading.Semaphore(0), threading.Semaphore(0)

    def play(self, start_ns: int, events: Iterator[Event]) -> None:
        """Stand at `start_ns` before these events; earlier ones happen at once."""
        self._now, self._events, self._hurried = start_ns, events, False
        self._next = next(events, None)

    def now_ns(self) -> int:
        """Return the time [ns]."""
        return self._now

    @property
    def over(self) -> bool:
        """Whether all events have happened."""
        return self._next is None

    def sleep_until(self, instant_ns: int, wake: threading.Event) -> None:
        """Let time pass to `instant_ns`, or to the event that sets `wake`."""
        while not wake.is_set():
            end, alarm, event = max(instant_ns, self._now), self._alarm, self._next
            if event is not None and event.at_ns <= end and (
                    alarm is None or event.at_ns < alarm):
                self._now = max(self._now, event.at_ns)
                self._happen()
            elif alarm is not None and alarm <= end:
                self._now = max(self._now, alarm)
                self._resume()
            else:
                self._now = end
                return

    def _happen(self) -> None:
        event = self._next
        assert event is not None
        self._next = next(self._events, None)
        event.happen(self._now)

    # -- the planner's turns -------------------------------------------------------------------

    def lend(self, start: Callable[[], None]) -> None:
        """Call `start`, and wait until the thread that it wakes spends time or hands back."""
        start()
        self._back.acquire()

    def hand_back(self) -> None:
        """End the planner's turn."""
        self._back.release()

    def spend(self, ns: int) -> None:
        """In the planner's thread: let `ns` pass."""
        if ns <= 0 or self._hurried:
            return
        self._alarm = self._now + ns
        self._back.release()
        self._turn.acquire()

    def hurry(self) -> None:
        """Let what is still being planned end at once, as when the driver has stopped."""
        self._hurried = True
        if self._alarm is not None:
            self._resume()

    def _resume(self) -> None:
        self._alarm = None
        self._turn.release()
        self._back.acquire()


class _Done(threading.Event):
    """Tells the timeline, too."""

    def __init__(self, timeline: VirtualTimeline) -> None:
        super().__init__()
        super().set()
        self._timeline = timeline

    def set(self) -> None:
        super().set()
        self._timeline.hand_back()


class VirtualPlanner(Planner):
    """The planner's thread, taking turns with the driver's.

    `begin` is told the instant of a plan, and returns whether it takes time. One that takes none
    is made in the driver's thread: changing threads costs more than all else around a plan.
    """

    def __init__(self, loop: PolicyLoop, timeline: VirtualTimeline,
                 begin: Callable[[int], bool]) -> None:
        super().__init__(loop)
        self._timeline, self._begin = timeline, begin
        self.done = _Done(timeline)
        self.asked_ns: int | None = None
        """The tick that the last plan was asked for in [ns]."""

    def ask(self, now_ns: int, budget_ns: int) -> None:
        """Start a plan; it observes before this returns, and is done in its own time."""
        self.asked_ns = now_ns
        if not self._begin(now_ns):
            self._request, self.offered = (now_ns, budget_ns), None
            self._plan()
            return
        ask = super().ask
        self._timeline.lend(lambda: ask(now_ns, budget_ns))

    def stop(self, seconds: float = 1.0) -> None:
        """End the thread; a plan in flight is ended at once."""
        self._timeline.hurry()
        super().stop(seconds)


class Costs(NamedTuple):
    """What a plan costs [ns]."""

    encode: int
    """Encoding, in sum."""
    once: int
    """Sampling, in sum, beside what each call costs."""
    call: int
    """Each network call."""
    prompt: int = 0
    """Network calls that cost nothing before the first that costs."""


class ChargedEngine:
    """An engine whose calls cost what a model says, on a timeline, whatever they cost here."""

    def __init__(self, engine: Engine, timeline: VirtualTimeline) -> None:
        self._engine, self._timeline = engine, timeline
        self.name, self.dtypes, self.executed = engine.name, engine.dtypes, engine.executed
        self.conditioned = engine.conditioned if isinstance(engine, ConditionedEngine) else None
        self.blocks = engine.blocks if isinstance(engine, BlockwiseEngine) else Counter[str]()
        self.costs = Costs(0, 0, 0)
        """Of the plan to come."""
        self.encoded = self.calls = 0
        """Frames encoded and network calls made since the start."""

    def encode(self, camera: str, image: np.ndarray) -> np.ndarray:
        """Encode as the engine does; the first frame of a plan pays for all of them."""
        latent = self._engine.encode(camera, image)
        self._pay_encoding()
        return latent

    def staged(self, camera: str) -> Staged | None:
        """Return the engine's encoder as its stages, whose head pays as `encode` does."""
        own = self._engine.staged(camera) if isinstance(self._engine, StagedEngine) else None
        if own is None:
            return None

        def head(x: np.ndarray) -> np.ndarray:
            latent = own.head(x)
            self._pay_encoding()
            return latent

        return Staged(own.stages, head)

    def _pay_encoding(self) -> None:
        self.encoded += 1
        costs, self.costs = self.costs, self.costs._replace(encode=0)
        self._timeline.spend(costs.encode)

    def denoise(self, x: np.ndarray, sigma: float, cond: np.ndarray,
                stop: float = 0.0) -> np.ndarray:
        """Denoise as the engine does; the first call that costs pays for what is paid once."""
        clean = self._engine.denoise(x, sigma, cond, stop)
        self.pay_call()
        return clean

    def blockwise(self, schedule: Schedule) -> Denoiser | None:
        """Return the engine's denoiser of one plan, whose calls pay as `denoise` does."""
        own = self._engine.blockwise(schedule) if (
            isinstance(self._engine, BlockwiseEngine)) else None
        return None if own is None else ChargedPlan(own, self)

    def pay_call(self) -> None:
        """Pay for a network call that was made."""
        self.calls += 1
        costs = self.costs
        if costs.prompt:
            self.costs = costs._replace(prompt=costs.prompt - 1)
        else:
            self.costs = costs._replace(once=0)
            self._timeline.spend(costs.once + costs.call)


class ChargedPlan:
    """The denoiser of one plan that keeps branches, charged to an engine."""

    def __init__(self, own: Denoiser, payer: ChargedEngine) -> None:
        self._own, self._payer = own, payer

    def denoise(self, x: np.ndarray, sigma: float, cond: np.ndarray,
                stop: float = 0.0) -> np.ndarray:
        """Denoise as the engine does."""
        clean = self._own.denoise(x, sigma, cond, stop)
        self._payer.pay_call()
        return clean
