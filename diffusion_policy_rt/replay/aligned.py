"""The node's driver on the ticks of a recording."""

from __future__ import annotations

from diffusion_policy_rt.replay.recording import Recording
from diffusion_policy_rt.runtime.arrivals import Arrivals
from diffusion_policy_rt.runtime.driver import Driver
from diffusion_policy_rt.runtime.timeline import Timeline


class Prompt(Arrivals):
    """Waits for no frame: what a plan saw is there before it, whether or not it was waited for."""

    def wait(self, timeline: Timeline, until_ns: int) -> None:
        """Return at once."""


class AlignedDriver(Driver):
    """A driver whose ticks take the phase of the recorded ones, where it is told."""

    recording: Recording | None = None

    def _begin_anew(self, scheduled: int) -> int:
        return self._told(super()._begin_anew(scheduled))

    def _next(self, scheduled: int) -> int:
        return self._told(self._in_phase(scheduled))

    def _told(self, upcoming: int) -> int:
        """Return the recorded tick in this period, which a stalled node may have begun anew."""
        half = self.loop.settings.period_ns // 2
        return self.recording.planned_near(upcoming, half) if self.recording else upcoming

    def _in_phase(self, scheduled: int) -> int:
        aligned, upcoming = self._aligned, super()._next(scheduled)
        now, period = self._timeline.now_ns(), self.loop.settings.period_ns
        told = self.recording.aligned(now) if self.recording else None
        if told is None or aligned or not self._aligned:
            return upcoming
        return told + period * max(0, (now - told) // period + 1)
