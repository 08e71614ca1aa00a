"""Warnings on their edge: a fault is told once, with its cure, and so is its end."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

RECOVERED = 20
"""Good messages in a row after which the next fault of a source is told again."""
KINDS = 20
"""Kinds of faults told of one source: some make up a new one in each message."""


class Complaints:
    """Counts the faults of named sources and tells each kind of fault once."""

    def __init__(self, warn: Callable[[str], object], info: Callable[[str], object]) -> None:
        self._warn, self._info = warn, info
        self._told: dict[str, set[str]] = {}
        self._good: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        """Faults of each source since the start."""

    def bad(self, source: str, reason: str) -> None:
        """Take in a fault; reasons that differ in their figures alone are the same."""
        self.counts[source] += 1
        self._good[source] = 0
        kind = re.sub(r'-?\d+(\.\d+)?', '#', reason)
        told = self._told.setdefault(source, set())
        if kind not in told and len(told) < KINDS:
            told.add(kind)
            self._warn(f'{source}: {reason}')

    def good(self, source: str) -> None:
        """Take in that all is well with the source."""
        if self._told.get(source):
            self._good[source] += 1
            if self._good[source] >= RECOVERED:
                self._told[source].clear()
                self._info(f'{source}: works again')
