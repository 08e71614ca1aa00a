"""Durations that can be compared on a machine that others use too."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

WARMUP = 10
STREAM_BYTES = 1 << 28
"""Size of what the bandwidth is measured on: larger than any cache."""


def take_turns(calls: Sequence[Callable[[], object]], repeats: int,
               progress: Callable[[range], Iterable[int]] = iter) -> list[list[float]]:
    """Return `repeats` durations [s] of each call; they take turns on one and the same machine.

    `progress` wraps the iteration over the turns.
    """
    times: list[list[float]] = [[] for _ in calls]
    for repeat in progress(range(WARMUP + repeats)):
        for call, kept in zip(calls, times):
            began = time.perf_counter()
            call()
            if repeat >= WARMUP:
                kept.append(time.perf_counter() - began)
    return times


def reader(threads: int) -> Callable[[], object]:
    """Return a call that reads `STREAM_BYTES` of memory once, in this many threads.

    A maximum of integers is bound by nothing but the reading.
    """
    memory = np.ones(STREAM_BYTES // 8, np.int64)
    parts = np.array_split(memory, threads)
    pool = ThreadPoolExecutor(threads)
    return lambda: list(pool.map(np.max, parts))


def peak_rss() -> int:
    """Return the largest resident memory of this process so far [bytes]; 0 where unknown.

    Not `getrusage`, whose figure a child process begins with its parent's.
    """
    try:
        status = Path('/proc/self/status').read_text()
    except OSError:
        return 0
    return int(status.partition('VmHWM:')[2].split()[0]) * 1024


def available_memory() -> float:
    """Return the memory that may still be taken here [bytes]: the system's, or a container's."""
    try:
        told = Path('/proc/meminfo').read_text().partition('MemAvailable:')[2]
        free = int(told.split()[0]) * 1024
    except (OSError, IndexError):
        return math.inf
    try:
        group = Path('/sys/fs/cgroup')
        used = (group / 'memory.stat').read_text().split()
        left = int((group / 'memory.max').read_text()) - int(used[used.index('anon') + 1])
    except (OSError, ValueError):  # no limit: the file says max, or is not there
        return free
    return min(free, left)
