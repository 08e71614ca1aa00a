"""Values as text, the same on the terminal and on pages."""

from __future__ import annotations

from typing import Any


def show(value: Any) -> str:
    """Return a value as text with at most four significant digits."""
    return f'{value:.4g}' if isinstance(value, float) else '-' if value is None else str(value)
