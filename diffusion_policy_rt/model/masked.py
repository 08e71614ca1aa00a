"""A denoiser's step of which some residual branches are given, not computed."""

from __future__ import annotations

from torch import Tensor, nn

from diffusion_policy_rt.model.blocks import Branch
from diffusion_policy_rt.model.split_parts import Step


class MaskedStep(nn.Module):
    """x, level, observed and the kept branches to the output and the computed branches."""

    def __init__(self, step: Step, fresh: str) -> None:
        """Take the step and, per branch in order, 1 for computed or 0 for kept."""
        super().__init__()
        self.step, self.fresh = step, fresh

    def forward(self, x: Tensor, level: Tensor, observed: Tensor,
                *kept: Tensor) -> tuple[Tensor, ...]:
        bits, given, made = iter(self.fresh), iter(kept), []

        def keep(branch: Branch) -> Tensor:
            if next(bits) == '0':
                return next(given)
            made.append(branch())
            return made[-1]

        return self.step.keeping(keep, x, level, observed), *made
