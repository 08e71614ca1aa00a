"""The plans of the ticks: asked for, waited for as long as the deadline lets them, accounted."""

from __future__ import annotations

from collections.abc import Callable

from diffusion_policy_rt.runtime.chunk import Chunk
from diffusion_policy_rt.runtime.clock import Deadline
from diffusion_policy_rt.runtime.fates import Fates
from diffusion_policy_rt.runtime.loop import Plan, PolicyLoop
from diffusion_policy_rt.runtime.plan import Fate
from diffusion_policy_rt.runtime.planner import Planner, Result
from diffusion_policy_rt.runtime.timeline import Timeline

PUBLISH_MARGIN_NS = 500_000
"""Added to the measured p99 of publishing when the tick decides how long it may wait [ns]."""


class Asking:
    """What the ticking thread has to do with the planner."""

    def __init__(self, loop: PolicyLoop, planner: Planner, timeline: Timeline,
                 tell: Callable[[int, Fate], object]) -> None:
        """`tell` is called once per plan, with the tick that asked for it [ns] and its fate."""
        self._loop, self._planner, self._timeline = loop, planner, timeline
        self._fates = Fates(tell)

    def plan(self, scheduled: int, deadline: Deadline) -> Result | None:
        """Return the plan asked for in this tick if it comes in time, or why there is none."""
        planner = self._planner
        if planner.busy or not self._loop.wants_plan(scheduled):
            return None
        latencies, cut_off = self._loop.latencies, deadline.end_ns - self._reserved(deadline)
        fewest = self._loop.settings.allowed_steps(self._loop.spec)[0]
        planning = latencies.p99_ns('encode') + latencies.p99_ns(fewest)
        self._loop.arrivals.wait(self._timeline, cut_off - round(planning))
        self._fates.ask(scheduled, self._loop.current)
        planner.ask(scheduled, cut_off - self._timeline.now_ns())
        self._timeline.sleep_until(cut_off, planner.done)
        result = self.take(self._timeline.now_ns(), in_time=True)
        return result or self._cut_short()

    def _reserved(self, deadline: Deadline) -> int:
        """Return what is kept of the deadline for waking up from the wait and publishing [ns].

        Bounded where nothing else is there to publish: then there must be time to plan in. A tick
        that has a chunk to follow may keep all of its deadline, and the plan is for the next one.
        """
        chunk = self._loop.current
        follows = chunk is not None and len(chunk.rest(deadline.start_ns))
        most = deadline.budget_ns // (2 if follows else 4)
        return PUBLISH_MARGIN_NS + sum(min(round(self._loop.latencies.p99_ns(stage)), most)
                                       for stage in ('wake', 'publish'))

    def _cut_short(self) -> Plan | None:
        """Return what the plan in flight came to so far; it goes on, for the next ticks."""
        offered = self._planner.offered
        self._loop.counts['late'] += 1
        if offered is not None:
            self._fates.cut_short(offered.chunk)
            self._loop.adopt(offered)
        return offered

    def take(self, at_ns: int, in_time: bool = False) -> Result | None:
        """Return the planner's result, once, and tell what became of it."""
        result = self._planner.take()
        if result is None:
            return None
        made = isinstance(result, Plan)
        self._fates.end(self._loop.chosen if made else 0, at_ns, in_time)
        return result

    def followed(self, scheduled: int, chunk: Chunk | None) -> None:
        """Take in which chunk the tick `scheduled` followed."""
        self._fates.follow(scheduled, chunk)

    def past_tick(self) -> int:
        """Return the time [ns], and in any case one that is too late for the tick that asked."""
        return max(self._timeline.now_ns(), self._fates.asked + self._loop.settings.deadline_ns)

    def give_up(self) -> None:
        """Tell of the plan in flight, if there is one: its estimate may have been followed."""
        after = self.past_tick() + 1  # no tick has followed it
        if self._fates.untold and self.take(after) is None:
            self._fates.end(self._loop.chosen, after)
