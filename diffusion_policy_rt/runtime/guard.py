"""Rules per stream: what is wrong with one is counted, and says what the ticks do about it.

    on_stale   while nothing new can be planned from the stream
    drop       plans are dropped: the chunk is executed to its end, then the ladder goes down
    hold       the robot holds at once; unless the stream is back within `hold_ticks`, it halts
    halt       one hold, then silence until `rearm`

After a hold the chunk from before it is not resumed: motion begins with a plan of what is seen
then. A stream of which nothing came yet holds nobody up: the first plan waits for it anyway.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from diffusion_policy_rt.errors import FrameError
from diffusion_policy_rt.runtime.frame import Frame
from diffusion_policy_rt.runtime.observation import ROBOT, NotReady
from diffusion_policy_rt.runtime.trace import Rung

ON_STALE = ('drop', 'hold', 'halt')
ROWS = 4
"""Every so many rows of an image are looked at: enough to tell black and frozen ones."""


@dataclass(frozen=True)
class StreamRule:
    """What is asked of one stream."""

    on_stale: str = 'drop'
    hold_ticks: int = 10
    """`hold`: ticks after which it becomes `halt`."""
    min_brightness: float = 0.0
    """Mean of the pixels, 0..255, below which an image counts as black; 0 accepts all."""
    frozen_timeout: float = 0.0
    """Time over which pixels that do not change count as frozen [s]; 0 accepts all."""


class Guard:
    """Watches the streams `names`. One thread notes, one plans and one ticks."""

    def __init__(self, names: Iterable[str],
                 rules: Mapping[str, StreamRule] | None = None) -> None:
        self.rules = {name: (rules or {}).get(name, StreamRule()) for name in (*names, ROBOT)}
        self.counts: dict[str, Counter[str]] = {name: Counter() for name in self.rules}
        """Per stream and kind of fault: ticks for `stale`, plans for every other."""
        self.halted = ''
        """Why the robot was halted; '' while it was not."""
        self._held = dict.fromkeys(self.rules, 0)
        self.clear()

    def clear(self) -> None:
        """Forget what was seen; counts stand, and so does a halt."""
        self._seen: dict[str, int] = {}
        self._pixels: dict[str, tuple[Frame, np.ndarray, tuple[int, ...]]] = {}
        self._unfit: str | None = None

    def rearm(self) -> None:
        """End a halt, by order of a person."""
        self.halted = ''
        self._held = dict.fromkeys(self.rules, 0)

    # -- what comes --------------------------------------------------------------------------

    def note(self, name: str, stamp_ns: int, arrival_ns: int) -> None:
        """Take in that a sample came; it ages from the earlier of the two [ns]."""
        seen = min(stamp_ns, arrival_ns)
        self._seen[name] = max(seen, self._seen.get(name, seen))

    def look(self, frame: Frame, rgb: np.ndarray) -> None:
        """Raise FrameError for an image, uint8 [H, W, 3], that its stream's rule refuses."""
        rule, some = self.rules[frame.camera], rgb[::ROWS]
        if rule.min_brightness and some.size and some.mean() < rule.min_brightness:
            raise FrameError(f'camera {frame.camera}: the image is black; uncover the lens or '
                             'restart its driver', 'black')
        first, pixels, shape = self._pixels.setdefault(frame.camera, (frame, some, rgb.shape))
        if rgb.shape != shape:
            raise FrameError(f'camera {frame.camera}: its images changed from '
                             f'{shape[1]}x{shape[0]} to {rgb.shape[1]}x{rgb.shape[0]}; change it '
                             'back, or call ~/reset', 'resized')
        if not rule.frozen_timeout or not np.array_equal(some, pixels):
            self._pixels[frame.camera] = frame, some, shape
        elif 0 < rule.frozen_timeout * 1e9 < frame.stamp_ns - first.stamp_ns:
            raise FrameError(f'camera {frame.camera}: its pixels do not change; restart its '
                             'driver', 'frozen')

    def judge(self, refused: NotReady | None) -> None:
        """Take in why a plan was refused, or None when there is one."""
        self._unfit = refused.source if refused and refused.kind != 'missing' else None
        if refused and refused.source in self.counts and refused.kind != 'stale':
            self.counts[refused.source][refused.kind] += 1

    # -- what a tick does --------------------------------------------------------------------

    def order(self, now_ns: int, timeout_ns: int) -> Rung | None:
        """Return HOLD or STOP where a rule demands it of the tick at `now_ns`, else None."""
        orders = [self._stream(name, now_ns - seen > timeout_ns)
                  for name, seen in list(self._seen.items())]
        if self.halted and Rung.HOLD not in orders:
            return Rung.STOP
        return Rung.HOLD if Rung.HOLD in orders else None

    def _stream(self, name: str, stale: bool) -> Rung | None:
        rule = self.rules[name]
        self.counts[name]['stale'] += stale
        if not stale and self._unfit != name:
            self._held[name] = 0
            return None
        if rule.on_stale == 'drop' or self.halted:
            return None
        self._held[name] += 1
        if rule.on_stale == 'halt' or self._held[name] >= rule.hold_ticks:
            self.counts[name]['halted'] += 1
            self.halted = (f'halted, because nothing new came from {title(name)}; see to it, then '
                           'call ~/start')
        return Rung.HOLD


def title(name: str) -> str:
    """Return a stream's name as people read it."""
    return f'camera {name}' if name != ROBOT else 'the robot state'
