"""The gate: what a quantized policy must hold before it is written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LIMITS = {'chunk_rmse': 0.01, 'jerk_ratio': 1.05, 'score_loss': 0.01, 'size_ratio': 0.30}
"""The most that each measure may be; how they are measured: docs/bundle.md."""


def share(measured: Mapping[str, float]) -> float:
    """Return the share of what the gate allows chunks to deviate: up to 1 passes."""
    return max(measured['chunk_rmse'] / LIMITS['chunk_rmse'],
               (measured['jerk_ratio'] - 1) / (LIMITS['jerk_ratio'] - 1))


def failures(report: Mapping[str, Any]) -> list[str]:
    """Return what a report exceeds, or lacks, of `LIMITS`, a line each; empty when it passes.

    `score_loss` may be None where no simulator of the task exists.
    """
    found = []
    for name, most in LIMITS.items():
        value = report.get(name, 'not measured')
        if isinstance(value, str) or value is not None and not value <= most:
            shown = value if isinstance(value, str) else f'{value:.4g}'
            found.append(f'{name} {shown} (at most {most:g})')
    return found
