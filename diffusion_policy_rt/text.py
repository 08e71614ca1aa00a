"""Values as text and back, the same on the terminal and on pages."""

from __future__ import annotations

import re
from typing import Any

from diffusion_policy_rt.errors import SpecError

UNITS = {'ns': 1, 'us': 1e3, 'ms': 1e6, 's': 1e9}


def show(value: Any) -> str:
    """Return a value as text with at most four significant digits."""
    return f'{value:.4g}' if isinstance(value, float) else '-' if value is None else str(value)


def parse_time(text: str) -> int:
    """Return a duration such as 12ms, 0.5s or 250us [ns]; SpecError where it is none."""
    match = re.fullmatch(r'(\d+(?:\.\d*)?|\.\d+)(ns|us|ms|s)', text.strip())
    if match is None and text.strip() != '0':
        raise SpecError(f'{text!r} is no duration; write it like 12ms, 250us or 0.5s')
    return round(float(match[1]) * UNITS[match[2]]) if match else 0


def parse_seconds(text: str) -> float:
    """Return a duration with a unit, or a number of seconds [s]; SpecError where it is none."""
    try:
        return float(text)
    except ValueError:
        return parse_time(text) / 1e9
