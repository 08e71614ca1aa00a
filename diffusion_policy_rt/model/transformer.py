"""The transformer denoiser of Diffusion Policy (Chi et al. 2023, section III-A).

Module names follow the published implementation, so that its weights map by name.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from diffusion_policy_rt.model.attention import Attention, causal_mask
from diffusion_policy_rt.model.blocks import Keep, SinusoidalPosEmb, compute, stop_encoder


class DecoderLayer(nn.Module):
    """Self-attention, attention to the memory, two linear layers; each after a norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.self_attn, self.multihead_attn = Attention(width, heads), Attention(width, heads)
        self.linear1, self.linear2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.activation = nn.GELU()
        start(self)

    def forward(self, h: Tensor, memory: Tensor, mask: Tensor | None,
                memory_mask: Tensor | None) -> Tensor:
        across = self.multihead_attn
        return self.attended(h, across.key(memory), across.value(memory), mask, memory_mask)

    def attended(self, h: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None,
                 memory_mask: Tensor | None, keep: Keep = compute) -> Tensor:
        """Return the layer's output for the memory's keys and values [B, S, W]."""
        normed, first = self.norm1(h), h
        second = first + keep(lambda: self.self_attn(normed, normed, mask))
        third = second + keep(
            lambda: self.multihead_attn.attend(self.norm2(second), keys, values, memory_mask))
        return third + keep(
            lambda: self.linear2(self.activation(self.linear1(self.norm3(third)))))


class TransformerDenoiser(nn.Module):
    """Raw network F: x [B, H, A], c_noise [B], cond [B, C] -> [B, H, A].

    The actions are tokens that attend to each other and to a memory: the noise level, the
    observation of each instant and, where the condition goes on behind `observed_dim`, the
    committed actions. With `causal` an action sees none after it, and the observations up to its
    own instant. With `stop_time` it takes c_stop [B] too, of the level that the step goes to.
    Trained without the published dropout: a resumed run must be the run that was not killed.
    """

    def __init__(self, action_dim: int, horizon: int, cond_dim: int, n_obs: int,
                 observed_dim: int, width: int = 256, layers: int = 8, heads: int = 4,
                 causal: bool = True, stop_time: bool = False,
                 step_frequency: float = 1.0) -> None:
        super().__init__()
        self.n_obs, self.observed_dim = n_obs, observed_dim
        tail = cond_dim - observed_dim
        tokens = 1 + n_obs + bool(tail)
        self.level = SinusoidalPosEmb(width, step_frequency)
        self.stop_encoder = stop_encoder(width, step_frequency) if stop_time else None
        self.input_emb = nn.Linear(action_dim, width)
        self.cond_obs_emb = nn.Linear(observed_dim // n_obs, width)
        self.prefix_emb = nn.Linear(tail, width) if tail else None
        self.pos_emb = nn.Parameter(torch.zeros(1, horizon, width))
        self.cond_pos_emb = nn.Parameter(torch.zeros(1, tokens, width))
        self.encoder = nn.Sequential(
            nn.Linear(width, 4 * width), nn.Mish(), nn.Linear(4 * width, width))
        self.decoder = nn.ModuleDict({'layers': nn.ModuleList(
            DecoderLayer(width, heads) for _ in range(layers))})
        self.ln_f, self.head = nn.LayerNorm(width), nn.Linear(width, action_dim)
        self._masks(horizon, tokens, causal)
        for own in (self.input_emb, self.cond_obs_emb, self.prefix_emb, self.encoder, self.head):
            start(own)
        for embedding in (self.pos_emb, self.cond_pos_emb):
            nn.init.normal_(embedding, std=0.02)

    def _masks(self, horizon: int, tokens: int, causal: bool) -> None:
        memory = causal_mask(horizon, tokens, lead=1)  # behind the level's token
        memory[:, 1 + self.n_obs:] = 0  # what is committed concerns every action
        for name, mask in (('mask', causal_mask(horizon, horizon)), ('memory_mask', memory)):
            self.register_buffer(name, mask if causal else None, persistent=False)

    def memory(self, c_noise: Tensor, cond: Tensor, c_stop: Tensor | None = None) -> Tensor:
        """Return what the actions attend to, [B, S, W]; only token 0 depends on the levels."""
        tokens = torch.cat((self.told(c_noise, c_stop), self.observed(cond)), dim=1)
        return self.encoder(tokens + self.cond_pos_emb)

    def told(self, c_noise: Tensor, c_stop: Tensor | None = None) -> Tensor:
        """Return the levels' token, [B, 1, W]."""
        level = self.level(c_noise)
        if self.stop_encoder is not None:
            level = level + self.stop_encoder(c_stop)
        return level[:, None]

    def observed(self, cond: Tensor) -> Tensor:
        """Return the condition's tokens, [B, S - 1, W]."""
        observed = cond[:, :self.observed_dim].unflatten(1, (self.n_obs, -1))
        tokens = [self.cond_obs_emb(observed)]
        if self.prefix_emb is not None:
            tokens.append(self.prefix_emb(cond[:, None, self.observed_dim:]))
        return torch.cat(tokens, dim=1)

    def forward(self, x: Tensor, c_noise: Tensor, cond: Tensor,
                c_stop: Tensor | None = None) -> Tensor:
        memory = self.memory(c_noise, cond, c_stop)
        h = self.input_emb(x) + self.pos_emb
        for layer in self.decoder['layers'].children():
            h = layer(h, memory, self.mask, self.memory_mask)
        return self.head(self.ln_f(h))


def start(module: nn.Module | None) -> None:
    """Draw the published first weights of linear layers: deviation 0.02, no bias."""
    for layer in module.modules() if module is not None else ():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
