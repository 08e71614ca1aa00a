"""Conditions computed once: what frozen encoders make of every window of a data set."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from diffusion_policy_rt.model.policy import Policy
from diffusion_policy_rt.spec import CameraSpec, PolicySpec
from diffusion_policy_rt.train.pixels import to_inputs
from diffusion_policy_rt.train.windows import Windows, condition_rows


@torch.no_grad()
def latent_rows(policy: Policy, camera: CameraSpec, images: np.ndarray,
                device: torch.device) -> np.ndarray:
    """Encode uint8 [N, height, width, 3], cropped from the middle, to float32 [N, L]."""
    encoder = policy.encoders[camera.name].to(device).eval()
    still = torch.zeros(256, 2, dtype=torch.long)
    return torch.cat([encoder(to_inputs(part, camera, still[:len(part)]).to(device))
                      for part in torch.from_numpy(images).split(256)]).cpu().numpy()


def frozen_conditions(policy: Policy, images: Mapping[str, np.ndarray], states: np.ndarray,
                      windows: Windows, device: torch.device) -> np.ndarray:
    """Return what every window observed, float32 [W, observed_dim]; states [N, S] in units."""
    latents = {c.name: latent_rows(policy, c, images[c.name], device)
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
