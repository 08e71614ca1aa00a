"""When frames come: so that a tick may wait a moment for one that is about to.

    frames   |         |         |(expected)
    ticks          T_k  ^--------^ plan from this one, if it comes before the cut-off
"""

from __future__ import annotations

import threading

from diffusion_policy_rt.runtime.frame import Frame
from diffusion_policy_rt.runtime.timeline import Timeline


class Arrivals:
    """Notes each camera's newest frame and the interval to the one before it."""

    def __init__(self) -> None:
        self._newest: dict[str, Frame] = {}
        self._interval: dict[str, int] = {}
        self._noted = threading.Event()

    def note(self, frame: Frame) -> None:
        """Take in a frame, as it arrives."""
        last = self._newest.get(frame.camera)
        if last is not None and frame.stamp_ns > last.stamp_ns:
            self._interval[frame.camera] = frame.stamp_ns - last.stamp_ns
        self._newest[frame.camera] = frame
        self._noted.set()

    def imminent(self, now_ns: int) -> dict[str, int]:
        """Return when the frames that are worth waiting for are expected: {camera: [ns]}.

        A frame is worth waiting for when it is nearer than half its camera's interval: then the
        wait is shorter than what the newest frame at hand has aged. One that is overdue by less
        than an eighth of the interval may still come.
        """
        coming = {camera: self._newest[camera].arrival_ns + interval
                  for camera, interval in list(self._interval.items())}
        return {camera: at for camera, at in coming.items()
                if -self._interval[camera] // 8 < at - now_ns <= self._interval[camera] // 2}

    def wait(self, timeline: Timeline, until_ns: int) -> None:
        """Wait for the imminent frames that are expected by `until_ns`, and never past it.

        A frame that is late by more than an eighth of its interval is not waited for.
        """
        coming = {c: at for c, at in self.imminent(timeline.now_ns()).items() if at <= until_ns}
        limit = min(until_ns, max((at + self._interval[c] // 8 for c, at in coming.items()),
                                  default=until_ns))
        before = {camera: self._newest[camera].stamp_ns for camera in coming}
        while True:
            self._noted.clear()  # before looking: a frame noted after this wakes the wait
            came = all(self._newest[c].stamp_ns != stamp for c, stamp in before.items())
            if came or timeline.now_ns() >= limit:
                return
            timeline.sleep_until(limit, self._noted)

    def clear(self) -> None:
        """Forget all cameras."""
        self._newest.clear()
        self._interval.clear()
