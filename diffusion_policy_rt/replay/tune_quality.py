"""What a stage of `dprt tune` is worth: its score in closed loop, or its error on a bag."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffusion_policy_rt.errors import DprtError
from diffusion_policy_rt.replay.compare import paired_difference
from diffusion_policy_rt.replay.rows import Row
from diffusion_policy_rt.replay.session import Wish, replay_one
from diffusion_policy_rt.replay.tabulate import Tabulation, prepare
from diffusion_policy_rt.replay.tune import Stage


class Score:
    """The mean score over episodes from the same seeds, which are kept in the tabulation."""

    def __init__(self, tabulation: Tabulation, engine: str, seeds: Sequence[int]) -> None:
        self._tabulation, self._engine, self._seeds = tabulation, engine, seeds

    def __call__(self, stage: Stage) -> float:
        """Return a stage's score."""
        outcomes = self._outcomes(stage)
        return float(sum(one['max_coverage'] for one in outcomes) / len(outcomes))

    def beside(self, stage: Stage, reference: Stage) -> dict[str, Any]:
        """Return how sure a stage's distance to another is, by the interval of its mean."""
        told = paired_difference(self._outcomes(stage), self._outcomes(reference))
        return {'difference': told['difference'], 'difference_ci95': told['ci95']}

    def _outcomes(self, stage: Stage) -> list[dict[str, Any]]:
        row = Row(label=stage.label, policy=stage.policy, steps=stage.steps)
        return self._tabulation.episodes(prepare(row, self._engine, None), self._seeds)


class BagError:
    """The error to the actions of a bag, replayed as `wish` tells but for the steps."""

    def __init__(self, wish: Wish, engine: str) -> None:
        self._wish, self._engine = wish, engine

    def __call__(self, stage: Stage) -> float:
        """Return a stage's error; DprtError for a bag without actions."""
        with tempfile.TemporaryDirectory() as folder:
            wish = dataclasses.replace(self._wish, out=Path(folder), steps=stage.steps)
            found: Any = replay_one(stage.policy, self._engine, '', wish).result['action_rmse']
        if found is None:
            raise DprtError(f'{wish.bag} has no actions to compare with; name their topic by '
                            '--map action=TOPIC')
        return float(found)

    def beside(self, stage: Stage, reference: Stage) -> dict[str, Any]:
        """Return nothing: all stages have the same bag, and there is one of it."""
        return {}
