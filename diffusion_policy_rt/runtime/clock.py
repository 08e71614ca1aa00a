"""Time as an argument: integer nanoseconds, and clocks that are passed in."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol


class Clock(Protocol):
    """A source of time. The core holds one only to measure its own stages."""

    def now_ns(self) -> int:
        """Return the time [ns]."""


class SteadyClock:
    """The machine's monotonic clock."""

    def now_ns(self) -> int:
        """Return nanoseconds since an arbitrary instant."""
        return time.perf_counter_ns()


class ManualClock:
    """A clock that stands until it is moved: for tests, simulation and replay."""

    def __init__(self, now_ns: int = 0) -> None:
        self._now_ns = now_ns

    def now_ns(self) -> int:
        """Return the time it was moved to [ns]."""
        return self._now_ns

    def advance(self, ns: int) -> None:
        """Move forward by `ns`."""
        self._now_ns += ns


@dataclass(frozen=True)
class Deadline:
    """An instant by which something must have left."""

    start_ns: int
    budget_ns: int

    @property
    def end_ns(self) -> int:
        """The last instant in time [ns]."""
        return self.start_ns + self.budget_ns

    def left_ns(self, now_ns: int) -> int:
        """Return what is left; negative once it has passed [ns]."""
        return self.end_ns - now_ns

    def missed(self, now_ns: int) -> bool:
        """Whether something that leaves now is late."""
        return now_ns > self.end_ns
