"""A bag as what came to a policy: its messages by stream, and what its node told of itself."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from diffusion_policy_rt.replay.again import read_info
from diffusion_policy_rt.replay.events import (
    ACTION, ASKED, EVENT, GRIPPER, RUNS, Reenactment, read_event, while_running)
from diffusion_policy_rt.replay.faults import Arrival
from diffusion_policy_rt.replay.mapping import Sources
from diffusion_policy_rt.replay.streams import STATE
from diffusion_policy_rt.ros.bag import Bag, Message
from diffusion_policy_rt.ros.events import ACT, ALIGN, PLAN, RESET, START, Event
from diffusion_policy_rt.runtime.plan import Fate
from diffusion_policy_rt.runtime.trace import read_values


class Recording:
    """One bag, for ticks of this deadline [s].

    `own` is the digest of the policy to be replayed: where it is the recorded one too, each plan
    is made from what it was made from there, and with `fated` has the fate that it had there.
    Empty follows starts, resets and stops only.
    """

    def __init__(self, bag: Bag, sources: Sources, deadline: float, own: str = '',
                 fated: bool = False) -> None:
        self._bag, self._sources, self._deadline = bag, sources, deadline
        self._first = next(bag.messages(sources.events), None) if sources.events else None
        self.again = (self._first is not None and own != ''
                      and own == read_info(bag, sources).get('digest'))
        """Whether it is the policy's own run, to be done again plan by plan."""
        self.fated = self.again and fated
        self._kinds = (*RUNS, ALIGN, ACT) if self.again else RUNS
        self._order = Reenactment(round(1e9 * deadline)) if self._first else None

    def arrivals(self, read: Callable[[], None]) -> Iterator[Arrival]:
        """Yield all messages as the node had them; `read` is called for each that is read."""
        found = self._read(read)
        if self.again:  # a plan is told when it is there, which may be long after it was asked for
            found = heapq.merge(found, self._early(), key=lambda arrival: arrival.at_ns)
        if self._order is not None:
            found = self._order.order(found)
        if not self._sources.events and not self._sources.reset:
            return found
        return while_running(found, running=not self._starts)

    @property
    def _starts(self) -> bool:
        """Whether the node was started in the recording."""
        return self._first is not None and read_event(self._first).kind == START

    def _read(self, read: Callable[[], None]) -> Iterator[Arrival]:
        sources = self._sources
        names = {topic: name for name, (topic, _) in sources.cameras.items()}
        names |= {topic: name for name, topic in (
            (STATE, sources.state), (ACTION, sources.action), (GRIPPER, sources.gripper),
            (EVENT, sources.events), (EVENT, sources.reset)) if topic}
        for message in self._bag.messages(*sources.topics, heads=True):
            read()
            stream = names[message.topic]
            if stream != EVENT:
                yield Arrival(message.stamp_ns, stream, message.data)
            elif (event := self._event(message)).kind in self._kinds:
                yield Arrival(event.at_ns, EVENT, event)

    def _early(self) -> Iterator[Arrival]:
        """Yield what was asked for before it was told, at that instant: plans and resets."""
        with Bag(self._bag.path) as bag:
            for message in bag.messages(self._sources.events):
                event = read_event(message)
                if event.kind == PLAN:
                    yield Arrival(event.at_ns, EVENT, event)
                elif event.kind == RESET and event.asked_ns < event.at_ns:
                    yield Arrival(event.asked_ns, EVENT, replace(event, kind=ASKED))

    def _event(self, message: Message) -> Event:
        if message.topic == self._sources.events:
            return read_event(message)
        return Event(RESET, message.stamp_ns, message.stamp_ns)

    def first_tick_ns(self) -> int | None:
        """Return when the recorded node ticked first [ns]; None where it is not told."""
        topic = self._sources.timing
        if self._starts or not topic:
            return None
        first = next(self._bag.messages(topic), None)
        if first is None or len(first.data.data) == 0:
            return None
        spent = self._deadline - read_values(first.data.data).slack_s
        return first.stamp_ns - round(1e9 * spent)

    def aligned(self, now_ns: int) -> int | None:
        """Return the first tick of this run that was aligned to a frame [ns]; None if not told."""
        return self._order.aligned(now_ns) if self._order else None

    def fate_at(self, now_ns: int) -> Fate | None:
        """Return the fate of the plan that the tick at `now_ns` asked for; None where it did not.

        Asked in order of ticks.
        """
        return self._order.fate_at(now_ns) if self._order else None

    def measured_at(self, now_ns: int) -> np.ndarray | None:
        """Return what the action of the tick at `now_ns` counts from, [A]; None if not told.

        Asked in order of ticks.
        """
        return self._order.measured_at(now_ns) if self._order else None

    def planned_near(self, at_ns: int, reach_ns: int) -> int:
        """Return the tick that asked for a plan less than `reach_ns` from `at_ns`, or that."""
        return self._order.planned_near(at_ns, reach_ns) if self._order and self.fated else at_ns

    def is_hold(self, at_ns: int, action: np.ndarray, columns: Sequence[int]) -> bool:
        """Whether columns of an action recorded at `at_ns` are a hold of a reset or stop."""
        return self._order is not None and self._order.is_hold(at_ns, action, columns)
