"""One camera of a policy."""

from __future__ import annotations

import math
from dataclasses import dataclass

from diffusion_policy_rt.errors import SpecError
from diffusion_policy_rt.spec.parse import as_tuple


@dataclass(frozen=True)
class CameraSpec:
    """One camera: how its frame becomes the network's input."""

    name: str
    height: int
    """Rows of the image after resizing [px]."""
    width: int
    """Columns of the image after resizing [px]."""
    latent_dim: int
    """Length of the latent that the encoder makes of one frame."""
    crop: tuple[int, int] | None = None
    """Rows and columns cut from the middle after resizing [px]; None keeps all."""
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    """Subtracted from each RGB channel scaled to [0, 1]."""
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    """Divides each RGB channel after the mean is subtracted."""

    def __post_init__(self) -> None:
        if self.crop is not None:
            object.__setattr__(self, 'crop', as_tuple(self.crop, int))
        for name in ('mean', 'std'):
            object.__setattr__(self, name, as_tuple(getattr(self, name), float))
        full, size = (self.height, self.width), self.input_size
        if len(size) != 2 or any(not 0 < cut <= whole for cut, whole in zip(size, full)):
            raise SpecError(f'camera {self.name}: crop {self.crop} does not fit into '
                            f'{self.height}x{self.width}')
        if self.latent_dim < 1:
            raise SpecError(f'camera {self.name}: latent_dim {self.latent_dim} must be above zero')
        finite = all(math.isfinite(v) for v in (*self.mean, *self.std))
        if len(self.mean) != 3 or len(self.std) != 3 or not finite or min(self.std) <= 0:
            raise SpecError(f'camera {self.name}: mean and std need 3 finite values, std above '
                            'zero')

    @property
    def input_size(self) -> tuple[int, int]:
        """Rows and columns of the network's input [px]."""
        return self.crop or (self.height, self.width)

    @property
    def crop_corner(self) -> tuple[int, int]:
        """First row and column of the crop [px]; halves to even, as the published code cuts."""
        rows, columns = self.input_size
        return round((self.height - rows) / 2), round((self.width - columns) / 2)
