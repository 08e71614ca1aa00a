"""Garbage is collected right after a tick, where nothing waits for it, and never within one."""

from __future__ import annotations

import gc

SOME, ALL = 50, 5000
"""Ticks between two collections of the younger and of all generations."""


class Collector:
    """Takes Python's garbage collection over from its automatism while a robot is driven."""

    def __init__(self) -> None:
        self._sweeps = 0

    def start(self) -> None:
        """Collect once more; what was loaded until now is not looked at again."""
        gc.collect()
        gc.freeze()
        gc.disable()

    def sweep(self) -> None:
        """Collect what the last tick left; now and then what many of them left."""
        self._sweeps += 1
        gc.collect(2 if self._sweeps % ALL == 0 else 1 if self._sweeps % SOME == 0 else 0)

    def stop(self) -> None:
        """Give it back to the automatism."""
        gc.enable()
        gc.unfreeze()
