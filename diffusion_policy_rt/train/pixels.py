"""`runtime.frame.to_input` for batches, on the training device."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from diffusion_policy_rt.spec import CameraSpec


def to_inputs(images: Tensor, camera: CameraSpec, shifts: Tensor) -> Tensor:
    """Crop and scale uint8 [B, height, width, 3] to float32 [B, 3, h, w], as `to_input` does.

    `shifts` int64 [B, 2] moves each crop window (rows, columns) [px].
    """
    rows, columns = camera.input_size
    device = images.device
    top, left = (corner + shifts[:, k:k + 1] for k, corner in enumerate(camera.crop_corner))
    row_index = (top + torch.arange(rows, device=device)).clamp(0, camera.height - 1)
    column_index = (left + torch.arange(columns, device=device)).clamp(0, camera.width - 1)
    sample = torch.arange(len(images), device=device)[:, None, None]
    window = images[sample, row_index[:, :, None], column_index[:, None, :]]
    std = torch.tensor(camera.std, device=device)
    gain, bias = 1 / (255 * std), torch.tensor(camera.mean, device=device) / std
    return (window * gain - bias).permute(0, 3, 1, 2).contiguous()


def random_shifts(count: int, limits: tuple[int, int], rng: np.random.Generator) -> Tensor:
    """Draw int64 [count, 2] shifts, uniform in +- `limits` (rows, columns) [px]."""
    reach = np.array(limits)
    return torch.from_numpy(rng.integers(-reach, reach + 1, (count, 2)))
