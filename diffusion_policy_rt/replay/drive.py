"""A bag through the node's own intake, loop and driver, on a virtual timeline."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from diffusion_policy_rt.errors import DprtError
from diffusion_policy_rt.replay.again import LoopAgain
from diffusion_policy_rt.replay.aligned import AlignedDriver, Prompt
from diffusion_policy_rt.replay.conditions import Conditions, Outcome, Watchers
from diffusion_policy_rt.replay.events import ACTION, ASKED, EVENT, GRIPPER, REARM, begins
from diffusion_policy_rt.replay.faults import Arrival, Faults
from diffusion_policy_rt.replay.mapping import Sources
from diffusion_policy_rt.replay.recording import Recording
from diffusion_policy_rt.replay.streams import (
    STATE, StreamWatch, segments, stamped, together)
from diffusion_policy_rt.replay.trail import Trail
from diffusion_policy_rt.replay.virtual import (
    ChargedEngine, Event, VirtualPlanner, VirtualTimeline)
from diffusion_policy_rt.ros.bag import Bag
from diffusion_policy_rt.ros.complaints import Complaints
from diffusion_policy_rt.ros.events import (
    ACT, PLAN, RESET, STOP, Event as NodeEvent, driver_event)
from diffusion_policy_rt.ros.intake import Intake
from diffusion_policy_rt.runtime.loop import Action, PolicyLoop
from diffusion_policy_rt.runtime.ports import Engine
from diffusion_policy_rt.runtime.plan import Fate
from diffusion_policy_rt.runtime.trace import Tick
from diffusion_policy_rt.spec import PolicySpec

SILENCE_NS = 10_000_000_000
"""Silence of all streams after which a replay begins anew instead of ticking through it [ns]."""


class Replay:
    """Replays one bag with one policy."""

    def __init__(self, spec: PolicySpec, engine: Engine, sources: Sources, how: Conditions,
                 trail: Trail, watchers: Watchers | None = None) -> None:
        self._spec, self._sources, self._how = spec, sources, how
        self._trail, self._watchers = trail, watchers or Watchers()
        self.timeline = VirtualTimeline()
        self.engine = ChargedEngine(engine, self.timeline)
        self.loop = LoopAgain(spec, self.engine, how.settings, self.timeline, how.seed,
                              how.limits, how.velocity, how.rules)
        if how.caches is not None:
            self.loop.keep(how.caches)
        self.loop.tiling.prove()
        self.engine.encoded = 0
        how.charge.prime(self.loop.latencies, how.settings.allowed_steps(spec), how.seed)
        self.outcome = Outcome()
        self._complaints = Complaints(self.outcome.notes.append, lambda told: None)
        self._intake = Intake(self.loop, self._complaints)
        self._intake.open = True
        self._streams = StreamWatch(round(how.settings.observation_timeout * 1e9))
        self._actions = np.empty((0, len(spec.action)))
        self._spent, self._reason = (0, 0), ''

    def run(self, bag: Bag) -> Outcome:
        """Replay to the bag's end, or to its last good message."""
        streams, how = [*self._sources.cameras, STATE], self._how
        told = self._recording = Recording(bag, self._sources, how.settings.deadline,
                                           '' if how.faults else how.digest, how.fated)
        if told.again:
            self._trail.matcher.follow()
            self.loop.arrivals = Prompt()
        if told.fated:
            self.loop.fate_at = told.fate_at
            self.loop.measured_at = told.measured_at
        arrivals = told.arrivals(lambda: self._watchers.message(self._trail.ticks))
        coming = together(arrivals)
        if how.faults:
            coming = Faults(how.faults, how.seed, streams).bend(coming)
        parts = segments(coming, SILENCE_NS, begins)
        for k, part in enumerate(parts):
            self._drive(part, told.first_tick_ns() if k == 0 else None)
        self._trail.flush()
        return self._conclude(bag)

    def _conclude(self, bag: Bag) -> Outcome:
        done = self.outcome
        if self._recording.again:
            fated = ', and ended when it ended there' if self._recording.fated else ''
            done.notes.append('recorded with this policy: each plan is made from what it was made '
                              f'from there{fated}')
        if bag.damage:
            done.notes.append(f'{bag.damage}; evaluated to its last good message')
        if done.restarts:
            done.notes.append(f'{done.restarts} times nothing came for more than '
                              f'{SILENCE_NS / 1e9:g} s; the policy began anew after it')
        done.notes += self._streams.notes()
        done.sha256, done.counts = self._trail.sha256, self._streams.counts
        done.dropped = {name: n for name, n in self._intake.dropped.items() if n}
        return done

    # -- one part without a long silence -------------------------------------------------------

    def _drive(self, part: Iterator[Arrival], first_tick_ns: int | None) -> None:
        first = next(part)
        self.outcome.restarts += self._trail.ticks > 0 and not begins(first)
        period = self._how.settings.period_ns
        start = first.at_ns if first_tick_ns is None else first_tick_ns - period
        self.loop.reset()
        self.loop.guard.rearm()
        driver = self._driver = AlignedDriver(
            self.loop, self.timeline, self._publish, self._on_tick, self._on_reason, self._plans,
            on_event=self._on_event)
        driver.recording = self._recording
        self.timeline.play(start, self._events(first, part, start))
        driver.run()
        driver.stop()

    def _plans(self, loop: PolicyLoop) -> VirtualPlanner:
        self._planner = VirtualPlanner(loop, self.timeline, self._begin_plan)
        return self._planner

    def _begin_plan(self, now_ns: int) -> bool:
        loop, how = self.loop, self._how
        self.engine.costs = (how.charge.draw(how.seed, now_ns) if loop.fate_at is None
                             else loop.costs(now_ns))
        return any(self.engine.costs)

    def _events(self, first: Arrival, part: Iterator[Arrival], start: int) -> Iterator[Event]:
        for arrival in _and(first, part):
            aside = arrival.stream in (ACTION, GRIPPER, EVENT)
            if not aside:
                self._streams.note(arrival)
            if aside or arrival.at_ns >= start:
                yield Event(arrival.at_ns, partial(self._take, arrival))

    def _take(self, arrival: Arrival, now: int) -> None:
        stream, data = arrival.stream, arrival.data
        if stream in (ACTION, GRIPPER):
            self._take_action(stream, data, now)
        elif stream == EVENT:
            self._take_event(data)
        elif stream == STATE:
            self._intake.state(data, now)
        else:
            self._take_frame(stream, data, now)

    def _take_event(self, event: NodeEvent) -> None:
        if event.kind == RESET or event.kind == ASKED and self._planner.busy:
            self._driver.reset()
        elif event.kind == STOP:
            self._driver.end()
        elif event.kind == REARM:
            self.loop.guard.rearm()

    def _take_frame(self, name: str, data: Any, now: int) -> None:
        transport = self._sources.cameras[name][1]
        if not self._intake.frame(self._spec.camera(name), transport, data, now):
            return
        frame = self.loop.newest_frame
        assert frame is not None
        if self._sources.constant:
            self.loop.observe_state(frame.stamp_ns, now, np.array(self._sources.constant))
        self._watchers.frame(frame)

    def _take_action(self, stream: str, data: Any, now: int) -> None:
        part = self._how.parts.get(stream)
        if part is None:
            return
        try:
            values = part.read(data)
        except DprtError as error:
            self._complaints.bad('recorded actions', str(error))
            return
        if not self._recording.is_hold(now, values, part.columns):
            self._trail.matcher.push(stamped(data) or now, values, stream == GRIPPER)

    # -- the driver's calls --------------------------------------------------------------------

    def _publish(self, action: Action) -> None:
        self._actions = action.actions

    def _on_reason(self, reason: str) -> None:
        self._reason = reason

    def _on_event(self, kind: str, at_ns: int, fate: Fate | None) -> None:
        newest = self.loop.looked if kind == PLAN else {}
        measured = self.loop.hands.counted if kind == ACT else None
        self._watchers.event(self.timeline.now_ns(),
                             driver_event(kind, at_ns, newest, fate=fate, measured=measured))

    def _on_tick(self, tick: Tick) -> None:
        now, settings = self.timeline.now_ns(), self._how.settings
        due = now - settings.deadline_ns + round(1e9 * tick.slack_s)
        actions, self._actions = self._actions, self._actions[:0]
        chunk, spent = self.loop.current, (self.engine.calls, self.engine.encoded)
        self._trail.add(
            tick, due, actions, observed_ns=chunk.stamp_ns if chunk and len(actions) else None,
            published_ns=now if len(actions) else None,
            asked=self._planner.asked_ns == due,
            late_plan=self._planner.busy and self._planner.asked_ns == due,
            network_calls=spent[0] - self._spent[0], encoded=spent[1] - self._spent[1])
        self._spent = spent
        self._trail.flush(now)
        self._watchers.tick(due, now, actions, tick)
        if self._reason:
            self.outcome.reasons[self._reason] += 1
        if self.timeline.over:
            self._driver.end()


def _and(first: Arrival, rest: Iterator[Arrival]) -> Iterator[Arrival]:
    yield first
    yield from rest
