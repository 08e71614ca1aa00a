"""What the system may grant a thread that must not be late: priority, cores, memory that stays.

Each is asked for on its own, and where it is denied the cure is told and the thread goes on.

With the priority go all threads of the process, at the lowest real-time one: a thread that is
preempted while it holds the interpreter, or a lock of the middleware, would keep the late one
waiting for as long. What they start, processes among it, is ordinary again.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from diffusion_policy_rt.errors import SpecError

MCL_CURRENT, MCL_FUTURE = 1, 2
LOWEST = 1
"""SCHED_FIFO priority of the process's other threads."""


@dataclass(frozen=True)
class Priority:
    """What is asked for; the defaults ask for nothing."""

    priority: int = 0
    """SCHED_FIFO priority of the thread, 1..99; 0 leaves the default scheduling."""
    cpus: tuple[int, ...] = ()
    """Cores that the thread may run on; none named leaves all."""
    lock_memory: bool = False
    """Whether the process' memory is kept from being swapped out."""

    def claim(self, warn: Callable[[str], object]) -> None:
        """Ask for it, for the calling thread; `warn` is told what is denied, with the cure."""
        thread = threading.get_native_id()
        wishes = [
            (bool(self.priority), lambda: self._raise(thread),
             f'SCHED_FIFO {self.priority}; raise rtprio in /etc/security/limits.conf'),
            (bool(self.cpus), lambda: os.sched_setaffinity(thread, self.cpus),
             f'cores {", ".join(map(str, self.cpus))}; name cores that this machine has'),
            (self.lock_memory, _lock_memory,
             'locked memory; raise memlock in /etc/security/limits.conf')]
        for wanted, ask, told in wishes:
            try:
                if wanted:
                    ask()
            except (OSError, AttributeError) as error:
                warn(f'the system denies {told} ({error})')

    def _raise(self, thread: int) -> None:
        _schedule(thread, os.SCHED_FIFO, self.priority)
        if self.priority > LOWEST:
            _schedule_others(thread, os.SCHED_FIFO, LOWEST)

    @contextlib.contextmanager
    def rehearsed(self) -> Iterator[None]:
        """Run the calling thread as a planner will run: what is measured so holds then."""
        thread = threading.get_native_id()
        if self.priority > LOWEST:
            with contextlib.suppress(OSError, AttributeError):  # told when it is claimed
                _schedule(thread, os.SCHED_FIFO, LOWEST)
        try:
            yield
        finally:
            if self.priority > LOWEST:
                with contextlib.suppress(OSError, AttributeError):
                    _schedule(thread, os.SCHED_OTHER, 0)

    def release(self) -> None:
        """Make all threads ordinary again."""
        if self.priority and hasattr(os, 'SCHED_OTHER'):
            _schedule_others(0, os.SCHED_OTHER, 0)


def _schedule(thread: int, policy: int, priority: int) -> None:
    os.sched_setscheduler(thread, policy | os.SCHED_RESET_ON_FORK, os.sched_param(priority))


def _schedule_others(thread: int, policy: int, priority: int) -> None:
    """Schedule all threads of this process but this one."""
    with contextlib.suppress(OSError):
        for other in map(int, os.listdir('/proc/self/task')):
            with contextlib.suppress(OSError):  # it has ended meanwhile, or was never raised
                if other != thread:
                    _schedule(other, policy, priority)


def parse_cpus(text: str) -> tuple[int, ...]:
    """Return the cores named in a list such as 0,2; SpecError for anything else."""
    try:
        cpus = tuple(int(part) for part in text.split(',') if part.strip())
    except ValueError:
        cpus = (-1,)
    if any(cpu < 0 for cpu in cpus):
        raise SpecError(f'realtime.cpus {text!r}: list cores by number, such as 0,2')
    return cpus


def _lock_memory() -> None:
    if ctypes.CDLL(None, use_errno=True).mlockall(MCL_CURRENT | MCL_FUTURE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
