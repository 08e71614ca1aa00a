"""A residual MLP denoiser: the family's small member, trained and run on two cores."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from diffusion_policy_rt.model.blocks import Keep, compute, step_encoder, stop_encoder


class ResidualLayer(nn.Module):
    """h [B, W] plus an MLP of its norm, scaled and shifted by the features [B, F] (FiLM)."""

    def __init__(self, width: int, features: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.film = nn.Sequential(nn.Mish(), nn.Linear(features, width * 2))
        self.first = nn.Linear(width, width)
        self.second = nn.Linear(width, width)
        self.activation = nn.Mish()

    def forward(self, h: Tensor, features: Tensor) -> Tensor:
        return self.modulated(h, self.film(features))

    def modulated(self, h: Tensor, film: Tensor, keep: Keep = compute) -> Tensor:
        """Return the layer's output for scale and shift, [B, 2 W]."""
        scale, shift = film.chunk(2, dim=-1)
        return h + keep(lambda: self.second(
            self.activation(self.first(self.norm(h)) * (1 + scale) + shift)))


class MLPDenoiser(nn.Module):
    """Raw network F: x [B, H, A], c_noise [B], cond [B, C] -> [B, H, A].

    With `stop_time` it takes c_stop [B] too, of the level that the step goes to. The condition is
    embedded with products of pairs of linear features (a bilinear layer), because what matters in
    manipulation - where the tool is in the object's frame - is bilinear in positions and
    orientations. `step_frequency` is the highest of the level's embedding [rad per unit].
    """

    def __init__(self, action_dim: int, horizon: int, cond_dim: int, width: int = 512,
                 layers: int = 3, step_dim: int = 64,
                 stop_time: bool = False, step_frequency: float = 1.0) -> None:
        super().__init__()
        self.shape = (horizon, action_dim)
        self.step_encoder = step_encoder(step_dim, step_frequency)
        self.stop_encoder = (
            stop_encoder(step_dim, step_frequency) if stop_time else None)
        self.left, self.right = nn.Linear(cond_dim, width), nn.Linear(cond_dim, width)
        self.cond = nn.Sequential(
            nn.Linear(width + cond_dim, width), nn.Mish(), nn.Linear(width, width))
        self.inputs = nn.Linear(horizon * action_dim, width)
        self.layers = nn.ModuleList(ResidualLayer(width, step_dim + width) for _ in range(layers))
        self.outputs = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, horizon * action_dim))

    def forward(self, x: Tensor, c_noise: Tensor, cond: Tensor,
                c_stop: Tensor | None = None) -> Tensor:
        observed = self.observed(cond)
        features = torch.cat((self.level(c_noise, c_stop), observed), dim=-1)
        h = self.inputs(x.flatten(1)) + observed
        for layer in self.layers:
            h = layer(h, features)
        return self.outputs(h).unflatten(1, self.shape)

    def level(self, c_noise: Tensor, c_stop: Tensor | None = None) -> Tensor:
        """Embed the levels, [B, step_dim]."""
        level = self.step_encoder(c_noise)
        return level if self.stop_encoder is None else level + self.stop_encoder(c_stop)

    def observed(self, cond: Tensor) -> Tensor:
        """Embed the condition, [B, W]."""
        pairs = self.left(cond) * self.right(cond)
        return self.cond(torch.cat((pairs, cond), dim=-1))
