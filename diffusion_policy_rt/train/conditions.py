"""Conditions computed once: what frozen encoders make of every window of a data set."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from diffusion_policy_rt.model.policy import Policy
from diffusion_policy_rt.spec import CameraSpec, PolicySpec
from diffusion_policy_rt.train.data.frames import Frames
from diffusion_policy_rt.train.distributed import World
from diffusion_policy_rt.train.pixels import to_inputs
from diffusion_policy_rt.train.windows import Windows, condition_rows

BLOCK = 256
"""Images that are encoded at a time."""


@torch.no_grad()
def latent_rows(policy: Policy, camera: CameraSpec, frames: Frames, world: World) -> np.ndarray:
    """Encode images [N, height, width, 3], cropped from the middle, to float32 [N, L].

    Each process reads and encodes its part of them.
    """
    encoder = policy.encoders[camera.name].to(world.device).eval()
    still = torch.zeros(BLOCK, 2, dtype=torch.long)
    parts = np.array_split(np.arange(len(frames)), world.size)
    made = [encoder(to_inputs(torch.from_numpy(block), camera, still[:len(block)])
                    .to(world.device)).cpu().numpy()
            for block in frames.blocks(parts[world.rank], BLOCK)]
    own = np.concatenate(made) if made else np.zeros((0, camera.latent_dim), np.float32)
    return world.joined(own, [len(part) for part in parts])


def frozen_conditions(policy: Policy, images: Mapping[str, Frames], states: np.ndarray,
                      windows: Windows, world: World) -> np.ndarray:
    """Return what every window observed, float32 [W, observed_dim]; states [N, S] in units."""
    latents = {c.name: latent_rows(policy, c, images[c.name], world)
               for c in policy.spec.cameras}
    return condition_rows(policy.spec, latents, states, windows)


def noised(observed: Tensor, deviation: np.ndarray, rng: np.random.Generator) -> Tensor:
    """Return conditions [B, C] with normal noise of this deviation, float32 [C]."""
    jitter = deviation * rng.standard_normal(tuple(observed.shape), np.float32)
    return observed + torch.from_numpy(jitter).to(observed)


def latent_deviation(spec: PolicySpec, noise: float) -> np.ndarray:
    """Return the deviation [observed_dim] of noise that meets latents and spares states."""
    per_instant = [noise] * sum(c.latent_dim for c in spec.cameras) + [0.0] * len(spec.state)
    return np.tile(per_instant, spec.n_obs)
