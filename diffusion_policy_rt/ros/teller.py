"""Tells what ticks did in a thread of its own: a tick itself builds no record and logs nothing."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

MOST = 10_000
"""Things waiting to be told above which new ones are left out, and counted."""


class Teller:
    """Calls functions later, in the order in which they were handed over.

    What one of them raises is told to `warn`.
    """

    def __init__(self, warn: Callable[[str], object]) -> None:
        self._warn = warn
        self._waiting: queue.SimpleQueue[tuple[Callable[..., None], Any] | None] = (
            queue.SimpleQueue())
        self.left_out = 0
        self._thread = threading.Thread(target=self._run, name='teller', daemon=True)
        self._thread.start()

    def tell(self, function: Callable[[Any], None], what: Any) -> None:
        """Have `function(what)` called soon; returns at once."""
        if self._waiting.qsize() < MOST:
            self._waiting.put((function, what))
        else:
            self.left_out += 1

    def close(self) -> None:
        """Tell what is still waiting, and end."""
        self._waiting.put(None)
        self._thread.join(1.0)

    def _run(self) -> None:
        while (told := self._waiting.get()) is not None:
            function, what = told
            try:
                function(what)
            except Exception as error:  # one record that cannot be told must not end the telling
                self._warn(f'a tick could not be told: {type(error).__name__}: {error}')
