"""One episode's account, in the words of the published Push-T protocol."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from diffusion_policy_rt.sim.tasks import PUSHT, Task


@dataclass
class Account:
    """What has been reached since the start of an episode."""

    seed: int
    steps: int = 0
    """Control steps done."""
    coverage: float = 0.0
    """The largest so far: of another task its progress."""
    task: Task = PUSHT

    def step(self, coverage: float) -> bool:
        """Take in the coverage after a control step; return whether the episode is over."""
        self.steps += 1
        self.coverage = max(self.coverage, coverage)
        return self.success or self.steps >= self.task.max_steps

    @property
    def success(self) -> bool:
        """Whether the goal was reached."""
        return self.coverage > self.task.success

    def to_json(self, complete: bool) -> dict[str, Any]:
        """Return what `~/episode` tells; as in `dprt eval`, `max_coverage` is the score."""
        return {'seed': self.seed, 'max_coverage': self.task.score(self.coverage),
                'coverage': self.coverage, 'success': self.success, 'steps': self.steps,
                'complete': complete}
