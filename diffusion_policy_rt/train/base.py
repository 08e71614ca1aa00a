"""The published network at its published size with random weights: for measuring its speed."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from diffusion_policy_rt.engines.bundle import Bundle
from diffusion_policy_rt.engines.timing import available_memory
from diffusion_policy_rt.engines.torch_engine import load_policy
from diffusion_policy_rt.errors import DprtError
from diffusion_policy_rt.model.policy import Policy
from diffusion_policy_rt.runtime.schedule import default_schedules, squared_cosine_levels
from diffusion_policy_rt.spec import (
    ActionSpec, CameraSpec, PolicySpec, Preconditioning, VectorSpec)
from diffusion_policy_rt.train.export import export_bundle, graphs
from diffusion_policy_rt.train.plan import shape_of
from diffusion_policy_rt.train.quantize.forms import named
from diffusion_policy_rt.train.quantize.run import make_parts, write

ENCODER = {'kind': 'resnet', 'keypoints': 32, 'latent_dim': 64}
DENOISER = {'kind': 'unet', 'down_dims': [512, 1024, 2048]}
NOTE = {'training': {'note': 'random weights, never trained'}, 'quality': {}, 'provenance': {}}
ALWAYS, MEMORY, DISK = 1.2e9, (2.7, 3.0), (2.1, 3.0)
"""Bytes that any size takes, and bytes per byte of fp32 weights: without int8, and with it. Of
memory measured at 1B parameters (docs/results/large.md)."""
CALIBRATION = 4
"""Random inputs per network that ranges are calibrated on; only the speed is of interest."""


def base_spec(cameras: int = 1, image: int = 96, horizon: int = 16) -> PolicySpec:
    """Return the spec of Chi et al. 2023's image policies: 96 px cropped to 84, horizon 16."""
    names = ('x', 'y')
    vector: dict[str, Any] = {
        'names': names, 'units': ('',) * 2, 'low': (-1.0,) * 2, 'high': (1.0,) * 2,
        'offset': (0.0,) * 2, 'scale': (1.0,) * 2}
    precond, crop = Preconditioning('ddpm', 1.0, tuple(squared_cosine_levels(100))), image * 7 // 8
    return PolicySpec(
        name='base', cameras=tuple(CameraSpec(f'camera{i}', image, image, 64, (crop, crop))
                                   for i in range(cameras)),
        state=VectorSpec(**vector), action=ActionSpec(**vector), n_obs=2, horizon=horizon,
        n_action_steps=8, rate=10.0, precond=precond,
        schedules=default_schedules(precond, (1, 2, 4, 8, 10, 100)))


def transformer(kind: str, parameters: float, horizon: int = 16) -> dict[str, Any]:
    """Return the configuration of a `transformer` or `dit` of about so many parameters."""
    shape = shape_of(parameters, horizon)
    return {'kind': kind, 'width': shape.width, 'layers': shape.layers, 'heads': shape.heads}


def write_base(folder: Path, spec: PolicySpec, products: bool = True,
               denoiser: Mapping[str, Any] = DENOISER) -> Bundle:
    """Write a base bundle with random weights (seed 0) to `folder`."""
    torch.manual_seed(0)
    model = {'encoder': ENCODER, 'denoiser': dict(denoiser)}
    policy = Policy(spec, model)
    for weight in policy.denoiser.parameters():
        if weight.ndim > 1 and not weight.any():  # a gate that is shut would hide the block
            nn.init.normal_(weight, std=0.02)
    return export_bundle(policy, model, folder, NOTE, products)


def check_fits(spec: PolicySpec, denoiser: Mapping[str, Any], dtypes: Collection[str],
               folder: Path) -> None:
    """Raise DprtError where writing and measuring such a bundle needs more than is there.

    It says how much memory, or how much room for files below `folder`, that would be.
    """
    with torch.device('meta'):
        policy = Policy(spec, {'encoder': ENCODER, 'denoiser': dict(denoiser)})
    count = sum(weight.numel() for weight in policy.parameters())
    memory, disk = (max(4.0 * count * table[dtype != 'fp32'] for dtype in dtypes) + ALWAYS
                    for table in (MEMORY, DISK))
    for needed, there, what in ((memory, available_memory(), 'memory'),
                                (disk, shutil.disk_usage(folder).free, 'room for files')):
        if needed > there:
            raise DprtError(
                f'{count / 1e6:.0f} million parameters in {", ".join(dtypes)} take '
                f'{needed / 1e9:.1f} GB of {what} to write and to measure, and '
                f'{there / 1e9:.1f} GB are left here; ask for fewer --params, or for fp32 alone')


def resize(source: Bundle, image: int, folder: Path) -> Bundle:
    """Write a bundle's networks for images of `image` x `image` pixels, not cropped.

    Its encoders were trained on another size: only speed and differences are of interest.
    """
    cameras = tuple(replace(camera, height=image, width=image, crop=None)
                    for camera in source.spec.cameras)
    policy = Policy(replace(source.spec, cameras=cameras), source.model)
    policy.load_state_dict(load_policy(source).state_dict())
    facts = {**NOTE, 'training': dict(source.training)}
    return export_bundle(policy, source.model, folder, facts, blocks=source.blocks)


def quantize_base(source: Bundle, folder: Path, denoiser: str) -> Bundle:
    """Write it with the denoiser in a form (`dynamic`, ...), the encoders in static int8.

    There is no policy whose fidelity a gate could ask for.
    """
    rng = np.random.default_rng(0)
    with torch.device('meta'):  # for the shapes of its inputs only
        shapes = Policy(source.spec, source.model)
    feeds = {name: [{key: rng.standard_normal(tuple(t.shape), np.float32)
                     for key, t in inputs.items()} for _ in range(CALIBRATION)]
             for name, (_, inputs, _) in graphs(shapes).items()}
    made = make_parts(source, feeds)
    for part in made:
        part.form = named(denoiser if part.name == 'denoiser' else 'static')
    return write(source, made, {part.name: [] for part in made}, folder, NOTE)
