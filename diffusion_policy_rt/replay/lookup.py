"""Messages of one stream by their stamps: the newest as of an instant, the nearest to one."""

from __future__ import annotations

import bisect
from collections.abc import Callable
from typing import Any

import numpy as np

from diffusion_policy_rt.replay.faults import Arrival
from diffusion_policy_rt.replay.streams import stamped

LATE_NS = 500_000_000
"""How late a message may be recorded, and how old one may be that is looked at [ns]."""
Read = Callable[[Any, int], np.ndarray]
"""(message, when it was recorded) -> its values; DprtError where it is malformed."""


class Lookup:
    """The newest messages of one stream by stamp, decoded when they are looked at."""

    def __init__(self, read: Read) -> None:
        self._read, self._stamps, self._found = read, list[int](), list[Any]()

    def push(self, arrival: Arrival) -> None:
        """Take in a message, by its stamp, or without one by when it was recorded."""
        stamp = stamped(arrival.data) or arrival.at_ns
        at = bisect.bisect(self._stamps, stamp)
        self._stamps.insert(at, stamp)
        self._found.insert(at, arrival)

    def value(self, at: int) -> np.ndarray:
        """Return the values of one."""
        return self._read(self._found[at].data, self._found[at].at_ns)

    def stamp(self, at: int) -> int:
        """Return the stamp of one [ns]."""
        return self._stamps[at]

    def as_of(self, instant_ns: int) -> int | None:
        """Return which is the newest at an instant, and forget what is older."""
        at = bisect.bisect(self._stamps, instant_ns) - 1
        if at < 0 or instant_ns - self._stamps[at] > LATE_NS:
            return None
        del self._stamps[:at], self._found[:at]
        return 0

    def after(self, instant_ns: int) -> int | None:
        """Return the first stamp after an instant [ns]."""
        at = bisect.bisect(self._stamps, instant_ns)
        return self._stamps[at] if at < len(self._stamps) else None

    def nearest(self, instant_ns: int, most_ns: int) -> int | None:
        """Return which is nearest to an instant, and forget what is older than `LATE_NS`."""
        old = bisect.bisect(self._stamps, instant_ns - LATE_NS)
        del self._stamps[:old], self._found[:old]
        off = [abs(stamp - instant_ns) for stamp in self._stamps]
        return off.index(min(off)) if off and min(off) <= most_ns else None

    def clear(self) -> None:
        """Forget all."""
        self._stamps.clear()
        self._found.clear()


class Standing(Lookup):
    """Commands each of which stands until the next, as a gripper's."""

    def nearest(self, instant_ns: int, most_ns: int) -> int | None:
        """Return which is nearest to an instant, else which stands then; forget what is older."""
        old = max(0, bisect.bisect(self._stamps, instant_ns - most_ns) - 1)
        del self._stamps[:old], self._found[:old]
        off = [abs(stamp - instant_ns) for stamp in self._stamps]
        if off and min(off) <= most_ns:
            return off.index(min(off))
        return 0 if off and self._stamps[0] <= instant_ns else None
