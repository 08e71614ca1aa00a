"""Weights in huge pages: what streams through the processor at every call is read faster.

A processor fetches ahead within a page and translates each page's address, which costs most where
plans are far apart and other programs run between them. Where the system gives huge pages to those
who ask (`madvise`), nobody asks for what an engine has allocated.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

HUGE = 1 << 21
"""Bytes of a huge page, of x86-64 and of Arm with pages of 4 KiB."""
COLLAPSE = 25
"""MADV_COLLAPSE of Linux 6.1: move what is there already."""


def use_huge_pages() -> int:
    """Move this process's large allocations into huge pages; return the bytes that were.

    None of them where the system does not do it.
    """
    if not sys.platform.startswith('linux') or mmap.PAGESIZE != 4096:
        return 0
    libc = ctypes.CDLL(None)
    libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    maps = Path('/proc/self/maps').read_text().splitlines()
    return sum(end - start for start, end in spans(maps)
               if libc.madvise(start, end - start, COLLAPSE) == 0)


def spans(maps: Iterable[str]) -> Iterator[tuple[int, int]]:
    """Return the whole huge pages, start and end, within each private, nameless mapping.

    `maps` are lines as /proc/self/maps has them.
    """
    for line in maps:
        addresses, access, _, _, inode, *name = line.split()
        if access != 'rw-p' or inode != '0' or name not in ([], ['[heap]']):
            continue
        start, end = (int(address, 16) for address in addresses.split('-'))
        start, end = -(-start // HUGE) * HUGE, end // HUGE * HUGE
        if end > start:
            yield start, end
