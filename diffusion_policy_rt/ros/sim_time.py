"""The timeline of a node under `use_sim_time`: /clock, however fast it runs."""

from __future__ import annotations

import threading

from rclpy.clock import Clock

POLL_S = 0.001
"""How often /clock is looked at while waiting [s]."""


class RosTimeline:
    """A node's clock as a timeline."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def now_ns(self) -> int:
        """Return the time [ns]; 0 until /clock was received."""
        return self._clock.now().nanoseconds

    def sleep_until(self, instant_ns: int, wake: threading.Event) -> None:
        """Return at `instant_ns`, or at once when `wake` is set."""
        while self.now_ns() < instant_ns and not wake.wait(POLL_S):
            pass
