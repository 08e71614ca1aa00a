"""What ticks follow: which chunk is in force, how much of it still counts, and what else is left.

    plan of this tick > rest of the last chunk > hold > stop
"""

from __future__ import annotations

from diffusion_policy_rt.runtime.acting import Action
from diffusion_policy_rt.runtime.chunk import Chunk, splice
from diffusion_policy_rt.runtime.guard import Guard
from diffusion_policy_rt.runtime.hands import Hands
from diffusion_policy_rt.runtime.plan import Plan
from diffusion_policy_rt.runtime.prefix import steps_late
from diffusion_policy_rt.runtime.settings import LoopSettings
from diffusion_policy_rt.runtime.trace import Rung
from diffusion_policy_rt.spec import PolicySpec


class Following:
    """The chunk in force and what becomes of it; one thread plans, another ticks."""

    def __init__(self, spec: PolicySpec, hands: Hands, guard: Guard) -> None:
        self._spec, self._hands, self._guard = spec, hands, guard
        self.planned: Chunk | None = None
        """The last that was planned to its end; only the planning thread sets it."""
        self._planned_ns: int | None = None
        self._estimate: Chunk | None = None
        """A chunk of a plan that was cut short; only the ticking thread sets it."""
        self._ended_ns: int | None = None
        """Stamp of the chunk that a hold broke off; it is not resumed [ns]."""

    @property
    def current(self) -> Chunk | None:
        """The chunk to follow; of two from one observation the one that was not cut short."""
        chunk, estimate = self.planned, self._estimate
        if estimate is None or chunk is not None and chunk.stamp_ns >= estimate.stamp_ns:
            return chunk
        return estimate

    def take_over(self, chunk: Chunk, now_ns: int) -> None:
        """Follow a planned chunk from the tick at `now_ns` on, by due time."""
        self.planned, self._planned_ns = splice(self.current, chunk, now_ns), now_ns

    def adopt(self, estimate: Chunk) -> None:
        """Follow what a plan in flight has come to, until it is there itself."""
        self._estimate = estimate

    def used_up(self, now_ns: int, settings: LoopSettings) -> bool:
        """Whether the last plan's actions to execute, or all it has, are used up at `now_ns`.

        Those to execute count from the observation, as in training: a plan that was late by d
        steps is followed for d actions less, one at least, so that latency adds to no reaction
        time.
        """
        chunk, planned_ns = self.planned, self._planned_ns
        if (chunk is None or planned_ns is None or self._broken_off(chunk)
                or not len(chunk.rest(now_ns))):
            return True
        late = steps_late(chunk.stamp_ns, planned_ns, self._spec.step_ns)
        count = max(1, (settings.n_action_steps or self._spec.n_action_steps) - late)
        span = settings.replan_ticks * settings.period_ns or count * self._spec.step_ns
        return 2 * (now_ns - planned_ns) + settings.period_ns > 2 * span

    def _broken_off(self, chunk: Chunk) -> bool:
        return self._ended_ns is not None and chunk.stamp_ns <= self._ended_ns

    def act(self, now_ns: int, plan: Plan | None, settings: LoopSettings) -> Action:
        """Return the action of the tick at `now_ns`; see `PolicyLoop.act`."""
        chunk, self._hands.counted = self.current, None
        acted = self._acted(now_ns, plan, chunk, settings)
        return Action(acted.rung, acted.actions, chunk)

    def _acted(self, now_ns: int, plan: Plan | None, chunk: Chunk | None,
               settings: LoopSettings) -> Action:
        order = self._guard.order(now_ns, settings.observation_timeout_ns)
        if order == Rung.HOLD and chunk is not None:
            self._ended_ns = chunk.stamp_ns
        left = 0 if chunk is None else chunk.stamp_ns + settings.action_timeout_ns - now_ns
        if chunk is None or left < 0 or order == Rung.STOP:
            return self._hands.end(settings)
        first = max(0, chunk.index(now_ns))
        end = min(len(chunk.actions), first + 1 + left // chunk.step_ns)
        if first >= end or self._broken_off(chunk):
            return (self._hands.brake(settings) if self._hands.velocity
                    else self._hands.hold(chunk, settings, now_ns, told=True))
        rung = plan.rung if plan is not None and plan.chunk is chunk else Rung.CHUNK
        return self._hands.follow(chunk, first, end, rung, settings, now_ns)

    def forget(self) -> None:
        """Follow nothing."""
        self.planned = self._estimate = self._planned_ns = self._ended_ns = None
