"""What a training run measured of itself, and who chooses between its epochs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from torch import nn


@dataclass
class History:
    """The curve: one entry per epoch."""

    train: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)
    measures: list[dict[str, float]] = field(default_factory=list)
    """What else was measured at the end of each epoch, by name."""
    seconds: float = 0.0
    """Time spent training, over all resumptions."""
    best_epoch: int = 0
    """The epoch whose module was kept, counted from 1; 0 where none was chosen: the last."""
    losses: list[float] = field(default_factory=list)
    """Of the steps of an epoch that is under way."""
    images: dict[str, float] = field(default_factory=dict)
    """Of images that were streamed: how fast they were read, and how long was waited for them."""

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> History:
        """Take up what `facts` returned, of a checkpoint that may be older than some of it."""
        return cls(train=list(facts['train']), validation=list(facts['validation']),
                   measures=list(facts.get('measures', ())), seconds=facts['seconds'],
                   losses=list(facts.get('losses', ())))

    def facts(self) -> dict[str, Any]:
        """Return what the rest of the run depends on."""
        return {'train': self.train, 'validation': self.validation, 'measures': self.measures,
                'seconds': self.seconds, 'losses': self.losses}

    def news(self) -> dict[str, str]:
        """Return the last epoch's loss and validation, and the newest scores, to be shown."""
        scores: dict[str, float] = next(
            (found for epoch in reversed(self.measures) if (found := scores_of(epoch))), {})
        waited = {'waiting': f"{self.images['waited']:.0%}"} if self.images else {}
        return {'loss': f'{self.train[-1]:.4f}', 'validation': f'{self.validation[-1]:.4f}',
                **{name: f'{score:.3f}' for name, score in scores.items()}, **waited}


class Referee(Protocol):
    """Evaluates a module in training, so that the best can be chosen."""

    def due(self, epoch: int, epochs: int) -> bool:
        """Whether the module is evaluated at the end of this epoch."""

    def measure(self, module: nn.Module) -> dict[str, float]:
        """Return what was measured; the scores are called `score_...`, 1 at best."""


def scores_of(measures: Mapping[str, float]) -> dict[str, float]:
    """Return the scores among what was measured."""
    return {name: value for name, value in measures.items() if name.startswith('score')}


def shortfall(measures: Mapping[str, float]) -> float:
    """Return how far the mean of the scores is from 1."""
    return 1 - float(np.mean(list(scores_of(measures).values())))
