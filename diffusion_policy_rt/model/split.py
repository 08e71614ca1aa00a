"""A denoiser in three parts: of the noise level, of the condition, and of the noisy chunk.

    level     c_noise [B][, c_stop [B]]  ->  [B, ...]      once for each level, for ever
    observed  cond [B, C]                ->  [B, ...]      once for each observation
    step      x, level, observed         ->  [B, H, A]     every network call
"""

from __future__ import annotations

from typing import cast

from torch import nn

from diffusion_policy_rt.model.dit import DiTDenoiser
from diffusion_policy_rt.model.mlp import MLPDenoiser, ResidualLayer
from diffusion_policy_rt.model.split_attention import (
    DiTStep, Embedding, MemoryLevel, MemoryObserved, TransformerStep)
from diffusion_policy_rt.model.split_film import (
    FilmLevel, MLPObserved, MLPStep, UnetStep, films)
from diffusion_policy_rt.model.split_parts import Parts
from diffusion_policy_rt.model.transformer import TransformerDenoiser
from diffusion_policy_rt.model.unet import ConditionalUnet1D


def split(net: nn.Module) -> Parts:
    """Return a denoiser's parts, in evaluation mode; they share its weights.

    It must have the layers of training: `lower` comes after.
    """
    parts = _split(net)
    for part in parts:
        part.eval()
    return parts


def _split(net: nn.Module) -> Parts:
    if isinstance(net, MLPDenoiser):
        projections = [cast(ResidualLayer, layer).film for layer in net.layers]
        level, observed = films(projections, net.step_encoder)
        return Parts(FilmLevel(net, level), MLPObserved(net, observed), MLPStep(net))
    if isinstance(net, ConditionalUnet1D):
        blocks = [block.cond_encoder for block in net.residual_blocks()]
        level, observed = films(blocks, net.diffusion_step_encoder)
        widths = [cast(nn.Linear, block[1]).out_features for block in blocks]
        return Parts(FilmLevel(net, level), observed, UnetStep(net, widths))
    if isinstance(net, TransformerDenoiser):
        return Parts(MemoryLevel(net), MemoryObserved(net), TransformerStep(net))
    if isinstance(net, DiTDenoiser):
        return Parts(Embedding(net), net.cond, DiTStep(net))
    raise TypeError(f'no parts of {type(net).__name__} are known')
