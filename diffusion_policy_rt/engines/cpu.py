"""What this machine's processor does to int8 products."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

EXACT = {'avx_vnni', 'avx512_vnni', 'amx_int8'}
"""Flags of the instructions that sum products of uint8 and int8 in 32 bits."""


@cache
def flags() -> frozenset[str]:
    """Return the processor's features as Linux names them; empty where it tells none."""
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(word for line in lines if line.startswith('flags')
                     for word in line.partition(':')[2].split())


def saturates() -> bool:
    """Tell whether pairs of uint8 x int8 products are summed in 16 bits here, and may overflow.

    So does AVX2 (VPMADDUBSW): 2 * 255 * 127 does not fit, and the result is silently wrong unless
    weights have 7 bits or are unsigned.
    """
    return platform.machine() in ('x86_64', 'AMD64') and not flags() & EXACT
