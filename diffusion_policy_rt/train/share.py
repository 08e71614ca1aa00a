"""Random numbers of a batch that several processes share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


class BatchShare(np.random.Generator):
    """Draws as one process would for the whole batch, and returns the rows of one part.

    The first axis of `size` counts rows. An integer without a size, which seeds something else,
    is another for each part.
    """

    def __init__(self, seed: tuple[int, ...], part: int = 0, parts: int = 1) -> None:
        super().__init__(np.random.PCG64(seed))
        self._part, self._parts = part, parts

    def _rows(self, size: Any, draw: Callable[[Any], Any]) -> Any:
        if size is None:
            return draw(None)
        rows, *rest = (size,) if isinstance(size, int) else size
        return draw((rows * self._parts, *rest))[self._part::self._parts]

    def standard_normal(self, size: Any = None, *args: Any, **named: Any) -> Any:
        """Draw normal values."""
        draw = super().standard_normal
        return self._rows(size, lambda n: draw(n, *args, **named))

    def random(self, size: Any = None, *args: Any, **named: Any) -> Any:
        """Draw uniform values."""
        draw = super().random
        return self._rows(size, lambda n: draw(n, *args, **named))

    def integers(self, low: Any, high: Any = None, size: Any = None, *args: Any,
                 **named: Any) -> Any:
        """Draw integers; bounds are the same for all rows."""
        draw = super().integers
        drawn = self._rows(size, lambda n: draw(low, high, n, *args, **named))
        return drawn + self._part if size is None else drawn
