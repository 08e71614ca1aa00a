"""What a recorded node told of its runs, put into the messages that it saw.

The recorder and the node are two listeners: what one took in just before a reset or a plan may
have come to the other just after it. The events tell the newest stamps that the node had, so
messages are moved to the side on which the node had them.

    recorded    state frame  RESET   state frame           what was recorded within `NEAR_NS` is
    played      state  RESET  frame  state frame            kept at hand, and no more
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from diffusion_policy_rt.errors import DataError
from diffusion_policy_rt.replay.faults import Arrival
from diffusion_policy_rt.replay.streams import stamped
from diffusion_policy_rt.ros.bag import Message
from diffusion_policy_rt.ros.events import (
    ACT, ALIGN, PLAN, RESET, START, STOP, Event, parse_event)
from diffusion_policy_rt.runtime.plan import Fate

ACTION, GRIPPER, EVENT = 'action', 'gripper_action', 'event'
"""The streams of actions, of a gripper's own and of events."""
REARM, ASKED = 'rearm', 'asked'
"""The kinds of a start while the node runs, and of asking for a reset, which waits for the plan in
flight."""
KEPT = 4096
"""Plans whose fates are kept at hand: those of the longest silence, and more."""
NEAR_NS = 500_000_000
"""How far apart a node and a recorder may take in one message [ns]."""
BEFORE_NS = 1_000_000
"""How long before a plan at the latest there comes what it saw [ns]."""
RUNS = (START, RESET, STOP)
"""The events that any policy follows; the others are of the recorded policy's own plans."""


def of_one_clock(message: Message) -> bool:
    """Whether the event in a message was recorded by the clock that the node went by."""
    told = parse_event(message.data.data)
    return read_event(message).at_ns == told.at_ns


def read_event(message: Message) -> Event:
    """Return the event in a message of `~/events`; DataError tells how to do without."""
    try:
        event = parse_event(message.data.data)
    except DataError as error:
        raise DataError(f'{message.topic}: {error}; --map events= takes none') from error
    off = message.stamp_ns - (event.fate.used_ns if event.fate else event.at_ns)
    if -NEAR_NS < off < 2 * NEAR_NS:
        return event
    # recorded by another clock than the node's
    return replace(event, at_ns=event.at_ns + off, asked_ns=event.asked_ns + off, fate=None)


class Reenactment:
    """Orders arrivals as the recorded node had them. `deadline_ns` is that of its ticks."""

    def __init__(self, deadline_ns: int) -> None:
        self._deadline_ns = deadline_ns
        self._window: list[tuple[int, bool, int, Arrival]] = []
        """A heap: instant, whether it is a message and no event, order of reading."""
        self._count = itertools.count()
        self._coming: list[Event] = []
        """The events of the window."""
        self._last = 0
        self._plan: Event | None = None
        """The last plan that was passed."""
        self._fates: deque[Event] = deque(maxlen=KEPT)
        """The plans that were read, those before the last that was asked for left out."""
        self._acts: deque[Event] = deque(maxlen=KEPT)
        """The ticks that were read whose actions count from what was measured, likewise."""
        self._told: deque[Event] = deque()
        """The events that were read, those of long ago left out."""

    def order(self, arrivals: Iterable[Arrival]) -> Iterator[Arrival]:
        """Yield the arrivals, but for plans, in the order in which the node had them."""
        read = 0
        for arrival in arrivals:
            if arrival.stream == EVENT and arrival.data.kind == ACT:
                self._acts.append(arrival.data)  # tells no order
                continue
            self._push(arrival, arrival.at_ns)
            if arrival.stream == EVENT:
                self._coming.append(arrival.data)
                self._note(arrival.data)
            read = max(read, arrival.at_ns)
            while self._window and self._window[0][0] + NEAR_NS <= read:
                yield from self._pop()
        while self._window:
            yield from self._pop()

    def _note(self, event: Event) -> None:
        if event.kind == PLAN:
            self._fates.append(event)
        elif event.kind != ASKED:
            self._told.append(event)

    def _push(self, arrival: Arrival, at_ns: int) -> None:
        moved = arrival if at_ns == arrival.at_ns else arrival._replace(at_ns=at_ns)
        item = at_ns, arrival.stream != EVENT, next(self._count), moved
        heapq.heappush(self._window, item)

    def _pop(self) -> Iterator[Arrival]:
        arrival = heapq.heappop(self._window)[3]
        if arrival.stream == EVENT:
            self._coming.remove(arrival.data)
            yield from self._seen_before(arrival.data)
            if arrival.data.kind == PLAN:
                self._plan = arrival.data
                return
        elif self._lost(arrival):
            return
        elif (later := self._seen_after(arrival)) > arrival.at_ns:
            self._push(arrival, later)
            return
        self._last = max(self._last, arrival.at_ns)
        yield arrival

    def _lost(self, arrival: Arrival) -> bool:
        """Whether a node that was being started has lost a message to the next of its stream.

        Until its start is done nothing is taken in, and one message of each stream can wait.
        """
        starts = [event.at_ns for event in self._coming if event.kind == START
                  and _unseen(event, arrival)]
        return any(arrival.at_ns < at and item[3].stream == arrival.stream
                   and item[3].at_ns <= at for at in starts for item in self._window if item[1])

    def _seen_before(self, event: Event) -> Iterator[Arrival]:
        """Yield, before the event, what was recorded after it although the node had it."""
        had = {item[2]: item[3] for item in sorted(self._window)
               if _tells(event, item[3]) and not _unseen(event, item[3])}
        if had:
            self._window = [item for item in self._window if item[2] not in had]
            heapq.heapify(self._window)
            self._last = max(self._last, event.at_ns - BEFORE_NS)
        for arrival in had.values():
            yield arrival._replace(at_ns=self._last)

    def _seen_after(self, arrival: Arrival) -> int:
        """Return when the node had a message at the earliest [ns].

        A plan that did not see it looked at some time before the deadline of its tick.
        """
        events = self._coming if self._plan is None else [self._plan, *self._coming]
        return max([arrival.at_ns, *(
            event.at_ns + (self._deadline_ns if event.kind == PLAN else 0) for event in events
            if _unseen(event, arrival))])

    def aligned(self, now_ns: int) -> int | None:
        """Return the first tick of this run that was aligned to a frame [ns]; None if not told."""
        while len(self._told) > 1 and self._told[0].at_ns + NEAR_NS < now_ns and (
                self._told[1].kind != ALIGN):
            self._told.popleft()
        begun = [event.at_ns for event in self._told if event.kind in RUNS]
        last = max((at for at in begun if at <= now_ns), default=0)
        end = min((at for at in begun if at > now_ns), default=None)
        aligned = [event.at_ns for event in self._told if event.kind == ALIGN
                   and event.at_ns >= last and (end is None or event.at_ns < end)]
        return aligned[0] if aligned else None

    def fate_at(self, now_ns: int) -> Fate | None:
        """Return the fate of the plan that the tick at `now_ns` asked for; None where it did not.

        Asked in order of ticks.
        """
        while self._fates and self._fates[0].at_ns < now_ns:
            self._fates.popleft()
        found = self._fates[0] if self._fates else None
        return found.fate if found is not None and found.at_ns == now_ns else None

    def measured_at(self, now_ns: int) -> np.ndarray | None:
        """Return what the action of the tick at `now_ns` counts from, [A]; None if not told.

        Asked in order of ticks.
        """
        while self._acts and self._acts[0].at_ns < now_ns:
            self._acts.popleft()
        found = self._acts[0] if self._acts else None
        if found is None or found.at_ns != now_ns or found.measured is None:
            return None
        return np.array(found.measured, float)  # what was not measured is NaN

    def planned_near(self, at_ns: int, reach_ns: int) -> int:
        """Return the tick that asked for a plan less than `reach_ns` from `at_ns`, or that."""
        return next((event.at_ns for event in self._fates
                     if abs(event.at_ns - at_ns) < reach_ns), at_ns)

    def is_hold(self, at_ns: int, action: np.ndarray, columns: Sequence[int]) -> bool:
        """Whether columns of an action recorded at `at_ns` are a hold of a reset or stop."""
        return any(event.held is not None
                   and np.array_equal(action, np.asarray(event.held)[list(columns)])
                   and abs(at_ns - event.asked_ns) < NEAR_NS for event in self._told)


def _tells(event: Event, arrival: Arrival) -> bool:
    """Whether the event tells on which side of it the node had a message."""
    return (arrival.stream not in (EVENT, ACTION, GRIPPER) and event.kind != ASKED
            and stamped(arrival.data) > 0
            and abs(arrival.at_ns - event.at_ns) < NEAR_NS
            and (event.kind in (START, PLAN) or arrival.stream in event.newest))


def _unseen(event: Event, arrival: Arrival) -> bool:
    """Whether the event tells that the node had a message only after it."""
    return (_tells(event, arrival)
            and stamped(arrival.data) > event.newest.get(arrival.stream, -1))


def while_running(arrivals: Iterable[Arrival], running: bool) -> Iterator[Arrival]:
    """Leave out what came while the recorded node did not run; `running` tells of its begin."""
    for arrival in arrivals:
        if arrival.stream != EVENT:
            if running:
                yield arrival
        elif arrival.data.kind == START and running:
            yield arrival._replace(data=replace(arrival.data, kind=REARM))
        elif arrival.data.kind == START or running:
            running = arrival.data.kind != STOP
            yield arrival


def begins(arrival: Arrival) -> bool:
    """Whether the recorded node began a run here."""
    return arrival.stream == EVENT and arrival.data.kind == START
