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

from diffusion_policy_rt.runtime.asking import Asking
from diffusion_policy_rt.runtime.clock import Deadline
from diffusion_policy_rt.runtime.loop import Action, Plan, PolicyLoop
from diffusion_policy_rt.runtime.observation import NotReady
from diffusion_policy_rt.runtime.plan import Fate
from diffusion_policy_rt.runtime.planner import Planner, Result
from diffusion_policy_rt.runtime.records import NAN, Records
from diffusion_policy_rt.runtime.timeline import Timeline
from diffusion_policy_rt.runtime.trace import Rung, Tick

START, RESET, PLAN, ALIGN, ACT = 'start', 'reset', 'plan', 'align', 'act'
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
        self._publish, self._on_reason = publish, on_reason
        self._rest = rest or publish
        self._planner = make_planner(loop)
        self._prepare, self._between, self._on_event = prepare, between, on_event
        self._thread = threading.Thread(target=self.run, name='tick', daemon=True)
        self._wake, self._reset = threading.Event(), threading.Event()
        self._stopping = self._aligned = False
        self._reason = ''
        self._records = Records(on_tick)
        self._asking = Asking(loop, self._planner, timeline,
                              lambda asked, fate: on_event(PLAN, asked, fate))

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

    # -- rhythm --------------------------------------------------------------------------------

    def _run(self) -> None:
        now = self._timeline.now_ns()
        self._on_event(START, now, None)
        scheduled = now + self.loop.settings.period_ns
        while True:
            self._timeline.sleep_until(scheduled, self._wake)
            self._wake.clear()  # before looking: what is set after this wakes the next sleep
            if self._stopping:
                self._asking.give_up()
                return
            if self._reset.is_set() and not self._planner.busy:
                scheduled = self._begin_anew(scheduled)
            if self._timeline.now_ns() >= scheduled:
                self._tick(scheduled)
                self._between()
                scheduled = self._next(scheduled)

    def _begin_anew(self, scheduled: int) -> int:
        """Reset the loop; the rhythm stands unless the timeline itself has jumped."""
        self._asking.take(self._asking.past_tick())
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
            self._records.skip(
                Deadline(scheduled + k * period, self.loop.settings.deadline_ns), now)
        newest = self.loop.newest
        if self._aligned or newest is None:
            return scheduled + period * max(1, (now - scheduled) // period + 1)
        self._aligned = True
        upcoming = newest.arrival_ns + period * max(1, (now - newest.arrival_ns) // period + 1)
        self._on_event(ALIGN, upcoming, None)
        return upcoming

    # -- one tick ------------------------------------------------------------------------------

    def _tick(self, scheduled: int) -> None:
        loop, began = self.loop, self._timeline.now_ns()
        newest, deadline = loop.newest, Deadline(scheduled, loop.settings.deadline_ns)
        loop.latencies.record('wake', began - scheduled)
        late = self._account(self._asking.take(scheduled))
        result = None if self._reset.is_set() else self._account(
            self._asking.plan(scheduled, deadline))
        plan = result if isinstance(result, Plan) else None
        decided = self._timeline.now_ns()
        self._explain(NotReady(loop.guard.halted) if loop.guard.halted else result or late)
        action = loop.act(scheduled, plan)
        self._asking.followed(scheduled, action.chunk)
        rung = self._send(action, self._publish)
        left = self._timeline.now_ns()
        loop.latencies.record('publish', left - decided)
        if loop.hands.counted is not None:
            self._on_event(ACT, scheduled, None)
        age = (began - newest.stamp_ns) / 1e9 if newest is not None else NAN
        self._records.tick(rung, deadline, left, age, plan, plan or late)

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

    def _explain(self, result: Result | None) -> None:
        """Tell once why no plan is made, and once that it works again."""
        if result is None:
            return
        reason = result.reason if isinstance(result, NotReady) else ''
        if reason != self._reason:
            self._reason = reason
            self._on_reason(reason)

    def _account(self, result: Result | None) -> Result | None:
        """Count a plan that failed for no stream's fault; return what was given."""
        if isinstance(result, NotReady) and result.source is None and result.kind:
            self.loop.counts[result.kind] += 1
        return result
