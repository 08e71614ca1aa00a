"""What a soak's child processes have in common: they end at SIGTERM, and with the soak itself."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable


def wanted_by(parent: int) -> Callable[[], bool]:
    """Return what tells whether this process is to go on, for the parent with this process id.

    A parent that was killed can tell nobody to end. Ctrl-C is for the parent alone.
    """
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return lambda: not ended.is_set() and os.getppid() == parent
