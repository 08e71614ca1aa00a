"""What the parts of all denoisers have in common."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, nn

from diffusion_policy_rt.model.blocks import Keep, compute


class Part(nn.Module):
    """One part, with the layers of the whole network, under their names behind `net.`."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net: Any = net


class Step(Part):
    """The part that every network call runs."""

    branches: int
    """Residual connections, each of which adds what `keep` gives for it; in order."""

    def forward(self, x: Tensor, level: Tensor, observed: Tensor) -> Tensor:
        return self.keeping(compute, x, level, observed)

    def keeping(self, keep: Keep, x: Tensor, level: Tensor, observed: Tensor) -> Tensor:
        """Return the network's output [B, H, A]."""
        raise NotImplementedError


class Parts(NamedTuple):
    """A split denoiser."""

    level: nn.Module
    observed: nn.Module
    step: Step
