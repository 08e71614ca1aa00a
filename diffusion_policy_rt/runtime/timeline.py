"""Where stamps, ticks and deadlines lie: a source of time that can be waited on."""

from __future__ import annotations

import threading
import time
from typing import Protocol


class Timeline(Protocol):
    """The time that stamps and ticks share."""

    def now_ns(self) -> int:
        """Return the time [ns]."""

    def sleep_until(self, instant_ns: int, wake: threading.Event) -> None:
        """Return at `instant_ns`, or soon after `wake` is set."""


class SteadyTimeline:
    """The machine's steady clock, told in the epoch of the stamps.

    It runs at the rate of the monotonic clock from `epoch_ns` on, whatever the wall clock does.
    """

    def __init__(self, epoch_ns: int) -> None:
        self._offset = epoch_ns - time.perf_counter_ns()

    def now_ns(self) -> int:
        """Return the time [ns]."""
        return time.perf_counter_ns() + self._offset

    def shift(self, ns: int) -> None:
        """Move the epoch by `ns`, as after the wall clock was set."""
        self._offset += ns

    def sleep_until(self, instant_ns: int, wake: threading.Event) -> None:
        """Return at `instant_ns`, or at once when `wake` is set."""
        left = instant_ns - self.now_ns()
        if left > 0:
            wake.wait(left / 1e9)
