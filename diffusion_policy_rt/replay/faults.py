"""Faults put into a bag's streams while it is replayed, the same with the same seed.

    drop=0.1             a tenth of the messages never arrive
    delay=30ms           arrive later
    freeze=2s+1s         from 2 s on, for 1 s, the content stands still and the stamps go on
    reorder=0.1          a tenth arrive only after the next of their stream
    noise=5              Gaussian: grey levels of an image, units of a state
    skew=20ms            are stamped earlier than they were taken

`@front` or `@state` behind one bounds it to a camera or to the state.
"""

from __future__ import annotations

import copy
import heapq
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np

from diffusion_policy_rt.errors import SpecError
from diffusion_policy_rt.text import parse_time

SHARES, TIMES = ('drop', 'reorder'), ('delay', 'skew')
KINDS = (*SHARES, *TIMES, 'freeze', 'noise')


class Arrival(NamedTuple):
    """A message on its way to the policy."""

    at_ns: int
    stream: str
    """A camera's name, `state`, or another that no fault touches."""
    data: Any


@dataclass(frozen=True)
class Fault:
    """One fault; `value` and `length` are a share, ns, or a deviation, by kind."""

    kind: str
    value: float
    length: int = 0
    stream: str = ''

    @classmethod
    def parse(cls, text: str, streams: Sequence[str]) -> Fault:
        """Return the fault that `KIND=VALUE[@STREAM]` tells; SpecError tells the form."""
        kind, _, rest = text.partition('=')
        value, _, stream = rest.partition('@')
        if kind not in KINDS:
            raise SpecError(f'--fault {text!r}: use one of {", ".join(KINDS)}, such as drop=0.1')
        if stream and stream not in streams:
            raise SpecError(f'--fault {text!r}: the streams are {", ".join(streams)}')
        if kind in TIMES:
            return cls(kind, parse_time(value), 0, stream)
        if kind == 'freeze':
            start, _, length = value.partition('+')
            return cls(kind, parse_time(start), parse_time(length), stream)
        try:
            number = float(value)
        except ValueError:
            number = -1.0
        if number < 0 or kind in SHARES and number > 1:
            raise SpecError(f'--fault {text!r}: {value!r} must be '
                            f'{"a share in 0..1" if kind in SHARES else "a number above 0"}')
        return cls(kind, number, 0, stream)


class Faults:
    """Bends a stream of arrivals; what is late is held and merged in, so little is kept."""

    def __init__(self, faults: Sequence[Fault], seed: int, streams: Sequence[str]) -> None:
        self._faults, self._seed, self._streams = faults, seed, list(streams)
        self._frozen: dict[tuple[str, int], Any] = {}
        self._count = itertools.count()

    def bend(self, arrivals: Iterable[Arrival]) -> Iterator[Arrival]:
        """Yield what arrives, in order of arrival."""
        late: list[tuple[int, int, Arrival]] = []
        held: dict[str, Arrival] = {}
        start: int | None = None
        for k, arrival in enumerate(arrivals):
            start = arrival.at_ns if start is None else start
            bent, swap = self._bend(arrival, k, arrival.at_ns - start)
            for one in self._swap(bent, swap, held):
                heapq.heappush(late, (one.at_ns, next(self._count), one))
            while late and late[0][0] <= arrival.at_ns:
                yield heapq.heappop(late)[2]
        for one in held.values():
            heapq.heappush(late, (one.at_ns, next(self._count), one))
        while late:
            yield heapq.heappop(late)[2]

    @staticmethod
    def _swap(bent: Arrival | None, swap: bool, held: dict[str, Arrival]) -> list[Arrival]:
        """Hold back what is to be swapped until the next of its stream has come."""
        if bent is None:
            return []
        waiting = held.pop(bent.stream, None)
        if waiting is not None:
            return [bent, waiting._replace(at_ns=bent.at_ns)]
        if swap:
            held[bent.stream] = bent
            return []
        return [bent]

    def _bend(self, arrival: Arrival, k: int, since_ns: int) -> tuple[Arrival | None, bool]:
        """Return the arrival as it is now, None where it is lost, and whether it is swapped."""
        swap, bent = False, arrival
        for i, fault in enumerate(self._faults):
            if arrival.stream not in self._streams or fault.stream not in ('', arrival.stream):
                continue
            rng = np.random.default_rng((self._seed, i, k))
            if fault.kind == 'drop' and rng.random() < fault.value:
                return None, False
            swap |= fault.kind == 'reorder' and rng.random() < fault.value
            bent = self._change(fault, i, bent, since_ns, rng)
        return bent, swap

    def _change(self, fault: Fault, i: int, arrival: Arrival, since_ns: int,
                rng: np.random.Generator) -> Arrival:
        if fault.kind == 'delay':
            return arrival._replace(at_ns=arrival.at_ns + round(fault.value))
        if fault.kind == 'skew':
            return arrival._replace(data=restamped(arrival.data, -round(fault.value),
                                                   arrival.at_ns))
        if fault.kind == 'noise':
            return arrival._replace(data=noisy(arrival.data, fault.value, rng))
        if fault.kind == 'freeze' and fault.value <= since_ns < fault.value + fault.length:
            kept = self._frozen.setdefault((arrival.stream, i), arrival.data)
            frozen = copy.copy(kept)
            frozen.header = arrival.data.header
            return arrival._replace(data=frozen)
        return arrival


def restamped(msg: Any, ns: int, at_ns: int) -> Any:
    """Return the message stamped `ns` later; a stamp of 0 counts as its arrival."""
    header, changed = copy.copy(msg.header), copy.copy(msg)
    stamp = header.stamp.sec * 1_000_000_000 + header.stamp.nanosec or at_ns
    header.stamp = copy.copy(header.stamp)
    header.stamp.sec, header.stamp.nanosec = divmod(stamp + ns, 1_000_000_000)
    changed.header = header
    return changed


def noisy(msg: Any, deviation: float, rng: np.random.Generator) -> Any:
    """Return the message with noise on its pixels or positions; compressed ones become png."""
    changed = copy.copy(msg)
    if hasattr(msg, 'position'):
        positions = np.asarray(msg.position, float)
        changed.position = positions + deviation * rng.standard_normal(len(positions))
    elif hasattr(msg, 'encoding'):
        pixels = np.asarray(msg.data, np.uint8)
        noise = rng.normal(0, deviation, pixels.shape)
        changed.data = np.clip(pixels + noise, 0, 255).round().astype(np.uint8)
    else:
        bgr = cv2.imdecode(np.frombuffer(msg.data, np.uint8), cv2.IMREAD_COLOR)
        if bgr is not None:  # what is damaged stays so, and is told by the intake
            bent = np.clip(bgr + rng.normal(0, deviation, bgr.shape), 0, 255).round()
            changed.data = cv2.imencode('.png', bent.astype(np.uint8))[1]
            changed.format = 'png'
    return changed
