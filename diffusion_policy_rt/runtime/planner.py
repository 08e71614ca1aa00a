"""The planner thread: at most one plan at a time, and what a driver needs to know about it."""

from __future__ import annotations

import threading

from diffusion_policy_rt.runtime.loop import Plan, PolicyLoop
from diffusion_policy_rt.runtime.observation import NotReady

Result = Plan | NotReady


class Planner:
    """Plans in a thread of its own. One other thread may ask and take."""

    def __init__(self, loop: PolicyLoop) -> None:
        self._loop = loop
        self._asked, self._stopping = threading.Event(), False
        self._request: tuple[int, int] = (0, 0)
        self._result: Result | None = None
        self.offered: Plan | None = None
        """What the plan in flight came to so far, if it can be used."""
        self.done = threading.Event()
        """Set while no plan is in flight."""
        self.done.set()
        self._thread = threading.Thread(target=self._run, name='planner', daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        """Whether a plan is in flight."""
        return not self.done.is_set()

    def ask(self, now_ns: int, budget_ns: int) -> None:
        """Start a plan for the tick at `now_ns`; only while not busy."""
        self._request, self.offered = (now_ns, budget_ns), None
        self.done.clear()
        self._asked.set()

    def take(self) -> Result | None:
        """Return the last plan's result, once; None while it is in flight or was taken."""
        if self.busy:
            return None
        result, self._result = self._result, None
        return result

    def stop(self, seconds: float = 0.3) -> None:
        """End the thread; a plan in flight is left behind after `seconds`."""
        self._stopping = True
        self._asked.set()
        self._thread.join(seconds)

    def _offer(self, plan: Plan) -> None:
        self.offered = plan

    def _run(self) -> None:
        while True:
            self._asked.wait()
            self._asked.clear()
            if self._stopping:
                return
            self._plan()
            self.done.set()

    def _plan(self) -> None:
        try:
            self._result = self._loop.plan(*self._request, self._offer)
        except Exception as error:  # whatever an engine raises costs a plan, never the loop
            self._result = NotReady(f'{type(error).__name__}: {error}', kind='raised')
