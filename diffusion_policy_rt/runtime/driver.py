"""Real time around the loop: a tick thread with absolute deadlines, and a planner beside it.

    T_k          plan asked for                    T_k + deadline
    |  tick  ----|........ waits ........| act, publish   |
    |  planner   | observe encode denoise |               |

The tick never waits past the deadline less what waking up and publishing cost; a plan that is not
there by then is cut short: what its network calls came to so far is used, and the whole of it from
the next tick on. Before its first call has returned it costs this tick its freshness.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from diffusion_policy_rt.runtime.chunk import Chunk
from diffusion_policy_rt.runtime.clock import Deadline
from diffusion_policy_rt.runtime.loop import Action, Plan, PolicyLoop
from diffusion_policy_rt.runtime.observation import NotReady
from diffusion_policy_rt.runtime.plan import Fate
from diffusion_policy_rt.runtime.planner import Planner, Result
from diffusion_policy_rt.runtime.timeline import Timeline
from diffusion_policy_rt.runtime.trace import Rung, Tick

NAN = float('nan')
START, RESET, PLAN, ALIGN, ACT = 'start', 'reset', 'plan', 'align', 'act'
PUBLISH_MARGIN_NS = 500_000
"""Added to the measured p99 of publishing when the tick decides how long it may wait [ns]."""
MAX_SKIPPED = 1000
"""Periods without a tick that are recorded one by one after a stall."""


def _nothing(*_: object) -> None:
    pass


class Driver:
    """Runs a loop in real time: one tick per period, each publishing once.

    `publish` is called from the tick thread with what the tick decided (never with STOP);
    `on_tick` after it with the record; `on_reason` when the reason for not planning or not
    publishing changes, with '' when all works again. `prepare` is called once in that thread, and
    `between` after each tick, for what must not happen within one. `rest` publishes the last hold,
    where ticking fails (default `publish`). A period in which the machine
    did not let the tick run is recorded too: as a missed STOP.

    `on_event` is told what a re-enactment needs to know, in ns: (START, now, None); (RESET, now,
    None) when the loop has forgotten; (PLAN, tick, its fate) when a plan is there, refused, or
    left behind by a stop, `loop.looked` telling what it saw; (ACT, tick, None) when an action
    counts from what is measured, `loop.hands.counted`; (ALIGN, next tick, None) when the ticks
    take a frame's phase.
    """

    def __init__(self, loop: PolicyLoop, timeline: Timeline, publish: Callable[[Action], None],
                 on_tick: Callable[[Tick], None], on_reason: Callable[[str], None],
                 make_planner: Callable[[PolicyLoop], Planner] = Planner,
                 prepare: Callable[[], object] = _nothing,
                 between: Callable[[], object] = _nothing,
                 on_event: Callable[[str, int, Fate | None], object] = _nothing,
                 rest: Callable[[Action], None] | None = None) -> None:
        self.loop, self._timeline = loop, timeline
        self._publish, self._on_tick, self._on_reason = publish, on_tick, on_reason
        self._rest = rest or publish
        self._planner = make_planner(loop)
        self._prepare, self._between, self._on_event = prepare, between, on_event
        self._thread = threading.Thread(target=self.run, name='tick', daemon=True)
        self._wake, self._reset = threading.Event(), threading.Event()
        self._stopping = self._aligned = False
        self._reason = ''
        self._asked = self._count = 0
        self._untold = False
        """Whether a plan was asked for of which nothing was told yet."""
        self._cut = self._used = 0
        self._before: Chunk | None = None
        self._estimate: Chunk | None = None
        """In force before that plan, and what it had come to when it was cut short."""

    def start(self) -> None:
        """Begin to tick, one period from now. A driver runs once."""
        self._thread.start()

    def stop(self) -> None:
        """End both threads; no action is published after this returns."""
        self.end()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()
        self._planner.stop()

    def end(self) -> None:
        """Begin no tick any more; the one under way goes on."""
        self._stopping = True
        self._wake.set()

    def reset(self) -> None:
        """Forget all that was observed and planned; no action planned before is published."""
        self._reset.set()
        self._wake.set()

    def run(self) -> None:
        """Tick until stopped; `start` calls it in a thread of its own.

        Whatever is raised in between leaves the robot on a hold, and is raised again.
        """
        try:
            self._prepare()
            self._run()
        except Exception as error:
            self._explain(NotReady(f'ticking ended: {type(error).__name__}: {error}'))
            self._send(self.loop.hold(self._timeline.now_ns()), self._rest)
            raise

    def _run(self) -> None:
        now = self._timeline.now_ns()
        self._on_event(START, now, None)
        scheduled = now + self.loop.settings.period_ns
        while True:
            self._timeline.sleep_until(scheduled, self._wake)
            self._wake.clear()  # before looking: what is set after this wakes the next sleep
            if self._stopping:
                self._give_up()
                return
            if self._reset.is_set() and not self._planner.busy:
                scheduled = self._begin_anew(scheduled)
            if self._timeline.now_ns() >= scheduled:
                self._tick(scheduled)
                self._between()
                scheduled = self._next(scheduled)

    def _begin_anew(self, scheduled: int) -> int:
        """Reset the loop; the rhythm stands unless the timeline itself has jumped."""
        self._take(self._past_tick())
        self.loop.reset()
        self._reset.clear()
        self._aligned = False
        now, period = self._timeline.now_ns(), self.loop.settings.period_ns
        self._on_event(RESET, now, None)
        return scheduled if abs(now - scheduled) <= period else now + period

    def _next(self, scheduled: int) -> int:
        """Return the next tick's instant: whole periods on; aligned once to the newest sample.

        A tick just when a frame arrives plans from the newest possible image. Cameras and ticks of
        equal rate then stay in step, and the tick waits out the frame's jitter.
        """
        now, period = self._timeline.now_ns(), self.loop.settings.period_ns
        skipped = max(0, (now - scheduled) // period) if not self._reset.is_set() else 0
        for k in range(1, 1 + min(skipped, MAX_SKIPPED)):
            self._skip(scheduled + k * period, now)
        newest = self.loop.newest
        if self._aligned or newest is None:
            return scheduled + period * max(1, (now - scheduled) // period + 1)
        self._aligned = True
        upcoming = newest.arrival_ns + period * max(1, (now - newest.arrival_ns) // period + 1)
        self._on_event(ALIGN, upcoming, None)
        return upcoming

    def _tick(self, scheduled: int) -> None:
        loop, planner, began = self.loop, self._planner, self._timeline.now_ns()
        newest, deadline = loop.newest, Deadline(scheduled, loop.settings.deadline_ns)
        loop.latencies.record('wake', began - scheduled)
        late = self._account(self._take(scheduled))
        result = self._account(self._plan(planner, scheduled, deadline))
        plan = result if isinstance(result, Plan) else None
        decided = self._timeline.now_ns()
        self._explain(NotReady(loop.guard.halted) if loop.guard.halted else result or late)
        action = loop.act(scheduled, plan)
        self._followed(scheduled, action.chunk)
        rung = self._send(action, self._publish)
        left = self._timeline.now_ns()
        loop.latencies.record('publish', left - decided)
        if loop.hands.counted is not None:
            self._on_event(ACT, scheduled, None)
        age = (began - newest.stamp_ns) / 1e9 if newest is not None else NAN
        self._record(rung, deadline, left, age, plan, plan or late)

    def _plan(self, planner: Planner, scheduled: int, deadline: Deadline) -> Result | None:
        """Return the plan asked for in this tick if it comes in time, or why there is none."""
        if planner.busy or self._reset.is_set() or not self.loop.wants_plan(scheduled):
            return None
        latencies, cut_off = self.loop.latencies, deadline.end_ns - self._reserved(deadline)
        fewest = self.loop.settings.allowed_steps(self.loop.spec)[0]
        planning = latencies.p99_ns('encode') + latencies.p99_ns(fewest)
        self.loop.arrivals.wait(self._timeline, cut_off - round(planning))
        self._asked, self._untold, self._cut, self._used = scheduled, True, 0, 0
        self._before, self._estimate = self.loop.current, None
        planner.ask(scheduled, cut_off - self._timeline.now_ns())
        self._timeline.sleep_until(cut_off, planner.done)
        result = self._take(self._timeline.now_ns(), in_time=True)
        return result or self._cut_short()

    def _reserved(self, deadline: Deadline) -> int:
        """Return what is kept of the deadline for waking up from the wait and publishing [ns].

        Bounded, since after one stall there must still be time to plan in.
        """
        most = deadline.budget_ns // 4
        return PUBLISH_MARGIN_NS + sum(min(round(self.loop.latencies.p99_ns(stage)), most)
                                       for stage in ('wake', 'publish'))

    def _take(self, at_ns: int, in_time: bool = False) -> Result | None:
        """Return the planner's result, once, and tell what it was planned from."""
        result = self._planner.take()
        if result is not None:
            self._tell_fate(isinstance(result, Plan), at_ns, in_time)
        return result

    def _give_up(self) -> None:
        """Tell of the plan in flight, if there is one: its estimate may have been followed."""
        after = self._past_tick() + 1  # no tick has followed it
        if self._untold and self._take(after) is None:
            self._tell_fate(True, after)

    def _past_tick(self) -> int:
        """Return the time, and in any case one that is too late for the tick that asked."""
        return max(self._timeline.now_ns(), self._asked + self.loop.settings.deadline_ns)

    def _tell_fate(self, made: bool, at_ns: int, in_time: bool = False) -> None:
        steps = self.loop.chosen if made else 0
        whole = in_time or self._used == self._asked
        fate = Fate(steps, steps if whole else self._cut, self._used or at_ns)
        self._untold = False
        self._on_event(PLAN, self._asked, fate)

    def _followed(self, scheduled: int, chunk: Chunk | None) -> None:
        """Take in which chunk a tick followed while a plan was in flight."""
        if not self._untold or chunk is self._before:
            return
        if chunk is self._estimate:
            self._cut = chunk.steps if chunk else 0
        else:  # the whole of it came just before acting
            self._used = self._used or scheduled

    def _account(self, result: Result | None) -> Result | None:
        """Count a plan that failed for no stream's fault; return what was given."""
        if isinstance(result, NotReady) and result.source is None and result.kind:
            self.loop.counts[result.kind] += 1
        return result

    def _cut_short(self) -> Plan | None:
        """Return what the plan in flight came to so far; it goes on, for the next ticks."""
        offered = self._planner.offered
        self.loop.counts['late'] += 1
        if offered is not None:
            self._estimate = offered.chunk
            self.loop.adopt(offered)
        return offered

    def _send(self, action: Action, publish: Callable[[Action], None]) -> Rung:
        """Publish the action; return its rung, or STOP when nothing left."""
        if action.rung == Rung.STOP or self._reset.is_set():
            return Rung.STOP
        try:
            publish(action)
        except Exception as error:  # whatever publishing raises costs an action, never the tick
            self._explain(NotReady(f'the action was not published: {error}'))
            return Rung.STOP
        return action.rung

    def _record(self, rung: Rung, deadline: Deadline, left: int, age: float, plan: Plan | None,
                spent: Result | None) -> None:
        """Tell the tick. `spent` is the plan whose cost falls to it, also when it came late."""
        fresh = plan is not None and rung in (Rung.FRESH, Rung.FEWER, Rung.CACHED)
        cost = spent if isinstance(spent, Plan) else None
        self._tell(Tick(
            tick=self._count,
            stamp_to_publish_s=(left - plan.chunk.stamp_ns) / 1e9 if plan and fresh else NAN,
            plan_s=cost.plan_ns / 1e9 if cost else NAN,
            encode_s=cost.encode_ns / 1e9 if cost else NAN,
            denoise_s=cost.denoise_ns / 1e9 if cost else NAN,
            slack_s=deadline.left_ns(left) / 1e9,
            steps=plan.chunk.steps if plan and fresh else 0,
            rung=rung,
            cache_hits=cost.cache_hits if cost else 0,
            observation_age_s=age,
            camera_skew_s=cost.skew_ns / 1e9 if cost else NAN,
            missed=deadline.missed(left)))

    def _skip(self, scheduled: int, now: int) -> None:
        """Record a period that passed without a tick."""
        deadline = Deadline(scheduled, self.loop.settings.deadline_ns)
        self._tell(Tick(self._count, NAN, NAN, NAN, NAN, deadline.left_ns(now) / 1e9, 0, Rung.STOP,
                        0, NAN, NAN, True))

    def _tell(self, tick: Tick) -> None:
        self._count += 1
        self._on_tick(tick)

    def _explain(self, result: Result | None) -> None:
        """Tell once why no plan is made, and once that it works again."""
        if result is None:
            return
        reason = result.reason if isinstance(result, NotReady) else ''
        if reason != self._reason:
            self._reason = reason
            self._on_reason(reason)
