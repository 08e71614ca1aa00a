"""What every kind of checkpoint is read into: a configuration, weights and statistics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from diffusion_policy_rt.errors import BundleError
from diffusion_policy_rt.train.importing.statistics import Affine


@dataclass(frozen=True)
class Camera:
    """One camera of the source."""

    key: str
    """Name in the source."""
    height: int
    width: int
    pixels: Affine
    """From RGB scaled to [0, 1] to the network's range, three values."""


@dataclass(frozen=True)
class Sampling:
    """The source's training noise levels, and how it samples."""

    levels: tuple[float, ...]
    """Noise level sigma of each training step, rising."""
    predicts: str
    """`noise` or `sample`."""
    steps: int
    """Network calls of the source's own sampler."""
    ancestral: bool
    """DDPM rather than DDIM."""
    clip: float | None
    """Bound of the estimate in normalised units."""


@dataclass(frozen=True)
class Source:
    """A checkpoint, read and found to be supported."""

    title: str
    """Kind and path, for messages and the bundle."""
    cameras: tuple[Camera, ...]
    state: Mapping[str, Affine]
    """The vectors of the condition in our order, by their names in the source."""
    action: Affine
    n_obs: int
    horizon: int
    n_action_steps: int
    sampling: Sampling
    encoder: Mapping[str, Any]
    """Our configuration of the encoder."""
    latent_dim: int
    """Length of what it makes of one frame."""
    crop: tuple[int, int] | None
    denoiser: Mapping[str, Any]
    """Our configuration of the denoiser."""
    weights: Mapping[str, Tensor] = field(repr=False)
    """Under our names; the cameras by their keys."""
    order: tuple[str, ...] = ()
    """Keys of cameras and vectors in the order of the source's condition."""
    statistics: str = 'source'
    """Where the normalisation came from."""

    def __post_init__(self) -> None:
        counts = {'n_obs_steps': self.n_obs, 'horizon': self.horizon,
                  'n_action_steps': self.n_action_steps,
                  'num_inference_steps': self.sampling.steps}
        for camera in self.cameras:
            counts |= {f'height of {camera.key}': camera.height,
                       f'width of {camera.key}': camera.width}
        for name, value in counts.items():
            if not isinstance(value, int) or value < 1:
                raise BundleError(f'{self.title}: {name} must be a whole number above zero, found '
                                  f'{value!r}; take another checkpoint')
