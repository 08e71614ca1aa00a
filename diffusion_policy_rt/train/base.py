"""The published network at its published size with random weights: for measuring its speed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from diffusion_policy_rt.engines.bundle import Bundle
from diffusion_policy_rt.model.policy import Policy
from diffusion_policy_rt.runtime.schedule import default_schedules, squared_cosine_levels
from diffusion_policy_rt.spec import (
    ActionSpec, CameraSpec, PolicySpec, Preconditioning, VectorSpec)
from diffusion_policy_rt.train.export import export_bundle

MODEL = {'encoder': {'kind': 'resnet', 'keypoints': 32, 'latent_dim': 64},
         'denoiser': {'kind': 'unet', 'down_dims': [512, 1024, 2048]}}


def base_spec(cameras: int = 1) -> PolicySpec:
    """Return the spec of Chi et al. 2023's image policies: 96 px cropped to 84, horizon 16."""
    names = ('x', 'y')
    vector: dict[str, Any] = {
        'names': names, 'units': ('',) * 2, 'low': (-1.0,) * 2, 'high': (1.0,) * 2,
        'offset': (0.0,) * 2, 'scale': (1.0,) * 2}
    precond = Preconditioning('ddpm', 1.0, tuple(squared_cosine_levels(100)))
    return PolicySpec(
        name='base', cameras=tuple(CameraSpec(f'camera{i}', 96, 96, 64, (84, 84))
                                   for i in range(cameras)),
        state=VectorSpec(**vector), action=ActionSpec(**vector), n_obs=2, horizon=16,
        n_action_steps=8, rate=10.0, precond=precond,
        schedules=default_schedules(precond, (1, 2, 4, 8, 10, 100)))


def write_base(folder: Path) -> Path:
    """Write a base bundle with random weights (seed 0) and return its folder."""
    torch.manual_seed(0)
    policy = Policy(base_spec(), MODEL)
    bundle: Bundle = export_bundle(policy, MODEL, folder, {
        'training': {'note': 'random weights, never trained'}, 'quality': {}, 'provenance': {}})
    return bundle.folder
