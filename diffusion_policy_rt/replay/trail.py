"""The trace of a replay: one JSON line per tick, written while it runs."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections import deque
from typing import Any, TextIO

import numpy as np

from diffusion_policy_rt.replay.recorded import Matcher
from diffusion_policy_rt.runtime.trace import FIELDS, Tick


class Trail:
    """Writes ticks in order, each once the recorded action nearest to it is known.

    Beside the fields of `Tick` a line holds `due_ns` (the tick's instant), `published_ns`,
    `observed_ns` (the stamp of what its action was planned from), `action` [A] and `recorded` [A]
    in units (null where there is none), `points` (actions published), `asked` (for a plan),
    `late_plan` (it was not done in time), `network_calls` and `encoded` (since the tick before).
    """

    def __init__(self, file: TextIO, matcher: Matcher) -> None:
        self._file, self.matcher = file, matcher
        self._pending: deque[dict[str, Any]] = deque()
        self._hash = hashlib.sha256()
        self.ticks = 0

    def add(self, tick: Tick, due_ns: int, actions: np.ndarray, **more: Any) -> None:
        """Take in a tick that published actions [K, A], K = 0 for none."""
        self._hash.update(struct.pack('<qq', due_ns, len(actions)))
        self._hash.update(np.ascontiguousarray(actions, '<f8').tobytes())
        values = {name: v if math.isfinite(v) else None for name, v in zip(FIELDS, tick.values())}
        self._pending.append({
            **values, 'tick': self.ticks, 'steps': tick.steps, 'cache_hits': tick.cache_hits,
            'missed': tick.missed, 'rung': tick.rung.name.lower(), 'due_ns': due_ns,
            'action': actions[0].tolist() if len(actions) else None, 'points': len(actions),
            **more})
        self.ticks += 1

    def flush(self, now_ns: int | None = None) -> None:
        """Write the ticks whose recorded action must have come by now; all without a time."""
        while self._pending and (
                now_ns is None or self._pending[0]['due_ns'] + self.matcher.after_ns < now_ns):
            line = self._pending.popleft()
            found = self.matcher.nearest(line['due_ns'])
            line['recorded'] = None if found is None else found.tolist()
            self._file.write(json.dumps(line) + '\n')

    @property
    def sha256(self) -> str:
        """Hash of all actions and of the instants at which they were due."""
        return self._hash.hexdigest()
