"""A bag as demonstrations: one row per control period, of what a policy would have had there.

    images    the newest of each camera at the row's instant (as-of)
    state     the one nearest to the newest image's stamp, as the loop observes it
    action    the one recorded nearest to that stamp, at most half a period away; where a gripper's
              is recorded apart, beside it the nearest of its commands, or the one that stands

Instants lie a quarter of a period after the phase of an episode's first image, so that its jitter
does not skip images; where no image is new the instant takes the stamp's place. Without cameras
states stand for images. No action stands
in two rows. A row that lacks something ends its episode, and so do starts, stops and resets of a
recorded node; what comes then begins another.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from diffusion_policy_rt.errors import DataError, DprtError
from diffusion_policy_rt.replay.action_parts import Part
from diffusion_policy_rt.replay.events import ACTION, EVENT
from diffusion_policy_rt.replay.faults import Arrival
from diffusion_policy_rt.replay.lookup import LATE_NS, Lookup, Read, Standing
from diffusion_policy_rt.replay.streams import STATE, stamped
from diffusion_policy_rt.spec import CameraSpec

class Row(NamedTuple):
    """What there was at one instant."""

    images: dict[str, np.ndarray]
    """Per camera, as it was read."""
    state: np.ndarray
    action: np.ndarray


@dataclass(frozen=True)
class Readers:
    """How the messages of each stream are read."""

    images: dict[CameraSpec, Read]
    state: Read
    actions: dict[str, Part]
    """By stream; without any rows have an empty action."""


class RowMaker:
    """Makes the rows of a bag, one after the other; keeps none of them."""

    def __init__(self, readers: Readers, rate: float) -> None:
        self._cameras = {c: Lookup(read) for c, read in readers.images.items()}
        self._state = Lookup(readers.state)
        self._parts = readers.actions
        self._actions = {stream: (Lookup if stream == ACTION else Standing)(
            partial(_values, part)) for stream, part in self._parts.items()}
        self._streams = {STATE: self._state, **self._actions,
                         **{c.name: s for c, s in self._cameras.items()}}
        self._first = next((camera.name for camera in readers.images), STATE)
        self._period = round(1e9 / rate)
        self._next: int | None = None
        """Instant of the next row [ns]; None before an episode."""
        self._newest = self._seen = self._acted = 0
        self._episode, self._begun = 0, False
        self.lacking: dict[str, int] = {}
        """What rows lacked, and how many."""

    def rows(self, arrivals: Iterable[Arrival]) -> Iterator[tuple[int, Row]]:
        """Yield the rows that these arrivals hold, each with its episode's number from 0."""
        for arrival in arrivals:
            if arrival.stream == EVENT:
                yield from self._end(arrival.at_ns)
                continue
            self._push(arrival)
            yield from self._rows_until(arrival.at_ns - LATE_NS)
        yield from self._end(self._newest)

    def _push(self, arrival: Arrival) -> None:
        if arrival.stream not in self._streams:
            return
        self._streams[arrival.stream].push(arrival)
        if arrival.stream == self._first:
            stamp = stamped(arrival.data) or arrival.at_ns
            self._newest = max(self._newest, stamp + self._period // 2)
            if self._next is None:
                self._next = stamp + self._period // 4

    def _rows_until(self, instant_ns: int) -> Iterator[tuple[int, Row]]:
        while self._next is not None and self._next <= instant_ns:
            row = self._row(self._next)
            if row is None:
                self._break()
                after = self._streams[self._first].after(self._next)
                self._next = None if after is None else max(
                    after + self._period // 4, self._next + 1)
            else:
                self._begun = True
                yield self._episode, row
                self._next += self._period

    def _end(self, instant_ns: int) -> Iterator[tuple[int, Row]]:
        """End the episode: nothing from before has to do with what comes."""
        yield from self._rows_until(min(instant_ns, self._newest))
        self._break()
        self._next = None
        for stream in self._streams.values():
            stream.clear()

    def _break(self) -> None:
        self._episode += self._begun
        self._begun = False

    def _row(self, instant_ns: int) -> Row | None:
        try:
            return self._complete(instant_ns)
        except DprtError as error:
            self.lacking[str(error)] = self.lacking.get(str(error), 0) + 1
            return None

    def _complete(self, instant_ns: int) -> Row:
        images = {}
        for camera, stream in self._cameras.items():
            _need(stream.as_of(instant_ns), f'an image of camera {camera.name}')
            images[camera.name] = stream.value(0)
        newest = max((stream.stamp(0) for stream in self._cameras.values()),
                     default=instant_ns - self._period // 4)
        # a camera that gives nothing new does not hold the time up
        stamp = newest if newest != self._seen else instant_ns - self._period // 4
        new, self._seen = newest != self._seen, newest
        state = self._state.value(_need(self._state.nearest(stamp, LATE_NS), 'a state'))
        if not self._parts:
            _need(0 if new else None, 'an image that is new')
            return Row(images, state, np.zeros(0))
        return Row(images, state, self._action(stamp))

    def _action(self, stamp: int) -> np.ndarray:
        """Return the action [A] of a row, which is no other row's."""
        found = {stream: _need(lookup.nearest(stamp, self._period // 2), f'an {stream}'
                               if stream == ACTION else f'a {stream}')
                 for stream, lookup in self._actions.items()}
        at = self._actions[ACTION].stamp(found[ACTION])
        _need(at if at > self._acted else None, 'an action of its own')
        self._acted = at
        action = np.empty(sum(len(part.columns) for part in self._parts.values()))
        for stream, part in self._parts.items():
            action[list(part.columns)] = self._actions[stream].value(found[stream])
        return action


def _values(part: Part, msg: Any, at_ns: int) -> np.ndarray:
    return part.read(msg)


def _need(found: int | None, what: str) -> int:
    if found is None:
        raise DataError(what)
    return found
