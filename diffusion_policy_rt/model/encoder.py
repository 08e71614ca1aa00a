"""Image encoders: float32 [B, 3, h, w] -> latent [B, L], one frame at a time."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffusion_policy_rt.model.resnet import ResNet

NEAR = 24
"""Layers whose outputs see no further than so many pixels are computed together from the pixels
around a change: a rim of outputs more costs less than to keep and to copy what lies between."""


class SpatialSoftmax(nn.Module):
    """Expected image coordinates of each keypoint's heat map (Finn et al. 2016).

    [B, C, h, w] -> [B, K, 2] with x to the right and y down, both in [-1, 1].
    """

    def __init__(self, channels: int, keypoints: int) -> None:
        super().__init__()
        self.nets = nn.Conv2d(channels, keypoints, 1)

    def forward(self, features: Tensor) -> Tensor:
        return self.expected(self.nets(features))

    def expected(self, heat: Tensor) -> Tensor:
        """Return each heat map's mean position: [B, K, h, w] -> [B, K, 2]."""
        rows, columns = heat.shape[-2:]
        weights = heat.flatten(2).softmax(-1).unflatten(-1, (rows, columns))
        x = (weights.sum(-2) * torch.linspace(-1, 1, columns, device=heat.device)).sum(-1)
        y = (weights.sum(-1) * torch.linspace(-1, 1, rows, device=heat.device)).sum(-1)
        return torch.stack((x, y), dim=-1)


class Resample(nn.Module):
    """Resize bilinearly and cut the middle: [B, 3, H, W] -> [B, 3, h, w].

    Each axis is a product with a constant matrix, which every engine has.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, image: Sequence[int], size: Sequence[int], crop: Sequence[int],
                 antialias: bool = True) -> None:
        super().__init__()
        for name, have, want, cut in zip(('rows', 'columns'), image, size, crop):
            first = round((want - cut) / 2)
            matrix = _resizing(have, want, antialias)[first:first + cut]
            self.register_buffer(name, matrix, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.rows @ images @ self.columns.T


def _resizing(have: int, want: int, antialias: bool) -> Tensor:
    """Return the matrix [want, have] that resizes one axis."""
    impulses = torch.eye(have)[None, None]
    return functional.interpolate(impulses, (want, have), mode='bilinear',
                                  antialias=antialias)[0, 0]


class ResNetEncoder(nn.Module):
    """The published encoder: ResNet-18 with GroupNorm, spatial softmax, a linear layer, ReLU.

    `relu` False leaves out the last one, `folded` the norms. `resample` is {'image', 'size',
    'crop'}, each [rows, columns]: images are resized, and the middle is cut out, by the network;
    with 'antialias' False where it says so.
    """

    def __init__(self, keypoints: int = 32, latent_dim: int = 64, width: int = 64,
                 blocks: Sequence[int] = (2, 2, 2, 2), folded: bool = False, relu: bool = True,
                 resample: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.resample = Resample(**resample) if resample else nn.Identity()
        self.backbone = ResNet(width, blocks, folded)
        self.pool = SpatialSoftmax(self.backbone.channels, keypoints)
        self.out = nn.Linear(keypoints * 2, latent_dim)
        self.latent_dim, self.relu = latent_dim, relu

    def forward(self, images: Tensor) -> Tensor:
        latent = self.out(self.pool(self.backbone(self.resample(images))).flatten(1))
        return latent.relu() if self.relu else latent


class MeanResNetEncoder(nn.Module):
    """ResNet as torchvision has it, without its classifier: the latent is the maps' mean.

    `folded` and `resample` are those of `ResNetEncoder`.
    """

    def __init__(self, width: int = 64, blocks: Sequence[int] = (2, 2, 2, 2),
                 folded: bool = False, resample: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.resample = Resample(**resample) if resample else nn.Identity()
        self.backbone = ResNet(width, blocks, folded)
        self.latent_dim = self.backbone.channels

    def forward(self, images: Tensor) -> Tensor:
        return self.backbone(self.resample(images)).mean((-2, -1))


class KeypointEncoder(nn.Module):
    """A small convolutional encoder whose latent is the keypoints' coordinates.

    Every layer before the spatial softmax sees a bounded neighbourhood and none normalises over
    the image, so a change in one place leaves the heat maps elsewhere as they are.
    """

    def __init__(self, keypoints: int = 16, channels: int = 32,
                 dilations: Sequence[int] = (1, 2, 4)) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.Conv2d(3, channels // 2, 5, 2, 2), nn.ReLU(),
            nn.Conv2d(channels // 2, channels, 3, 2, 1), nn.ReLU()]
        for dilation in dilations:
            layers += [nn.Conv2d(channels, channels, 3, 1, dilation, dilation), nn.ReLU()]
        self.backbone = nn.Sequential(*layers)
        self.pool = SpatialSoftmax(channels, keypoints)
        self.latent_dim = keypoints * 2

    def forward(self, images: Tensor) -> Tensor:
        return self.pool(self.backbone(images)).flatten(1)

    def convolutions(self) -> list[list[nn.Conv2d]]:
        """Return the layers before the spatial softmax, in order and in stages.

        Those whose outputs see `NEAR` pixels at most are one stage, each other one is its own.
        """
        stages: list[list[nn.Conv2d]] = []
        sees = scale = 1
        for layer in self.backbone:
            if isinstance(layer, nn.Conv2d):
                sees += scale * (layer.kernel_size[0] - 1) * layer.dilation[0]
                scale *= layer.stride[0]
                if stages and sees <= NEAR:
                    stages[-1].append(layer)
                else:
                    stages.append([layer])
        return stages

    def stages(self) -> list[nn.Sequential]:
        """Return the stages, each layer with its ReLU and the first without its padding.

        They share the weights. The last one makes the heat maps, too: they are fewer than its
        channels.
        """
        made = []
        for first, *others in self.convolutions():
            bare = copy.copy(first)
            bare.padding = (0, 0)
            made.append(nn.Sequential(*(part for layer in (bare, *others)
                                        for part in (layer, nn.ReLU()))))
        made[-1].append(self.pool.nets)
        return made

    def located(self, heat: Tensor) -> Tensor:
        """Return the latent [B, L] of the last stage's heat maps."""
        return self.pool.expected(heat).flatten(1)
