"""What became of each plan that a driver asked for, which a re-enactment needs to know.

    asked ---- followed whole, in time --------------------------------> told
          ---- cut short: an estimate followed --- the whole followed -> told
          ---- nothing in time ------------------- the whole followed -> told
"""

from __future__ import annotations

from collections.abc import Callable

from diffusion_policy_rt.runtime.chunk import Chunk
from diffusion_policy_rt.runtime.plan import Fate


class Fates:
    """Keeps what happened to the plan in flight; used by the ticking thread."""

    def __init__(self, tell: Callable[[int, Fate], object]) -> None:
        """`tell` is called once per plan, with the tick that asked for it [ns] and its fate."""
        self._tell = tell
        self.asked = 0
        """The tick that asked for the last plan [ns]."""
        self.untold = False
        """Whether nothing was told of it yet."""
        self._cut = self._used = 0
        self._before: Chunk | None = None
        self._estimate: Chunk | None = None
        """In force before that plan, and what it had come to when it was cut short."""

    def ask(self, scheduled: int, before: Chunk | None) -> None:
        """Take in that the tick `scheduled` asks for a plan, while `before` is in force."""
        self.asked, self.untold, self._cut, self._used = scheduled, True, 0, 0
        self._before, self._estimate = before, None

    def cut_short(self, estimate: Chunk) -> None:
        """Take in what the plan had come to when its tick could wait no longer."""
        self._estimate = estimate

    def follow(self, scheduled: int, chunk: Chunk | None) -> None:
        """Take in which chunk a tick followed while a plan was in flight."""
        if not self.untold or chunk is self._before:
            return
        if chunk is self._estimate:
            self._cut = chunk.steps if chunk else 0
        else:  # the whole of it came just before acting
            self._used = self._used or scheduled

    def end(self, steps: int, at_ns: int, in_time: bool = False) -> None:
        """Tell of a plan of `steps` network calls, 0 for one refused, that is there at `at_ns`."""
        whole = in_time or self._used == self.asked
        self.untold = False
        self._tell(self.asked, Fate(steps, steps if whole else self._cut, self._used or at_ns))
