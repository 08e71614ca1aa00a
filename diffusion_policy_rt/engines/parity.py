"""Whether an engine gives the outputs that the bundle's networks gave when they were exported.

Inputs are drawn anew by a frozen generator; only outputs are stored, in `parity.json`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np

from diffusion_policy_rt.engines.bundle import Bundle
from diffusion_policy_rt.errors import BundleError, EngineError
from diffusion_policy_rt.runtime.ports import Denoiser, Encoder
from diffusion_policy_rt.spec import PolicySpec

PARITY = 'parity.json'
TOLERANCE = 1e-4
"""Relative difference that engines of fp32 networks may show."""


class Networks(Encoder, Denoiser, Protocol):
    """What can be held against stored outputs."""


def outputs(spec: PolicySpec, networks: Networks) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the name and value of each output: of every encoder, and at every first level."""
    rng = np.random.RandomState(0)  # whose streams numpy has promised never to change
    for camera in spec.cameras:
        image = rng.uniform(-1, 1, (3, *camera.input_size)).astype(np.float32)
        yield f'latent of {camera.name}', networks.encode(camera.name, image)
    cond = rng.standard_normal(spec.cond_dim).astype(np.float32)
    noise = rng.standard_normal((spec.horizon, len(spec.action)))
    for steps, schedule in sorted(spec.schedules.items()):
        sigma, stop = (*schedule.sigmas, 0.0)[:2]
        yield f'chunk of {steps} steps', networks.denoise(sigma * noise, sigma, cond, stop)


def write_parity(folder: Path, spec: PolicySpec, networks: Networks,
                 tolerance: float = TOLERANCE) -> None:
    """Write what the networks give, and how far an engine may be from it."""
    kept = {name: np.asarray(value).tolist() for name, value in outputs(spec, networks)}
    (folder / PARITY).write_text(json.dumps({'tolerance': tolerance, 'outputs': kept}) + '\n')


def deviation(bundle: Bundle, networks: Networks) -> tuple[float, float] | None:
    """Return the largest relative difference to the stored outputs and the one that may be.

    None for a bundle without stored outputs.
    """
    if PARITY not in bundle.files:
        return None
    try:
        stored = json.loads(bundle.path(PARITY).read_text())
        expected = {name: np.array(value) for name, value in stored['outputs'].items()}
        # not max(), which lets go of what is not a number
        worst = np.max([_difference(expected[name], value)
                        for name, value in outputs(bundle.spec, networks)])
        return float(worst), float(stored['tolerance'])
    except (ValueError, LookupError, TypeError) as error:
        raise BundleError(f'{bundle.folder}: {PARITY} does not fit the policy; export the bundle '
                          'again') from error


def check_parity(bundle: Bundle, networks: Networks, name: str) -> float | None:
    """Return the largest relative difference to the stored outputs, None where none are stored.

    Raises EngineError where it is larger than the bundle says that it may be.
    """
    found = deviation(bundle, networks)
    if found is None:
        return None
    worst, tolerance = found
    if not worst <= tolerance:
        raise EngineError(f'{bundle.folder}: on this machine {name} gives outputs that differ '
                          f'by {worst:.2g} from those of the exported networks (at most '
                          f'{tolerance:.2g}); take another engine, or export and quantize here')
    return worst


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    if a.shape != b.shape:
        raise ValueError(f'shapes {a.shape} and {b.shape}')
    return float(np.abs(a - b).max() / max(1e-6, np.abs(a).max()))
