"""Exponential moving average of a module's weights."""

from __future__ import annotations

import copy

import torch
from torch import nn


class EMA:
    """Keeps `module` = decay * module + (1 - decay) * trained; the decay warms up from zero."""

    def __init__(self, trained: nn.Module, decay: float) -> None:
        """`trained` is the module at the start, which is copied."""
        self.follow(copy.deepcopy(trained), decay)

    @classmethod
    def of(cls, module: nn.Module, decay: float) -> EMA:
        """Return the average that begins with a module of its own."""
        made = cls.__new__(cls)
        made.follow(module, decay)
        return made

    def follow(self, module: nn.Module, decay: float) -> None:
        self.module, self.decay = module.eval().requires_grad_(False), decay

    @torch.no_grad()
    def update(self, trained: nn.Module, step: int) -> None:
        """Take in the weights after optimiser step `step` (counted from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for kept, new in zip(self.module.parameters(), trained.parameters()):
            kept.lerp_(new, 1 - decay)
        for held, given in zip(self.module.buffers(), trained.buffers()):
            held.copy_(given)
