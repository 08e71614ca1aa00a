"""ResNet (He et al. 2016) with GroupNorm in place of BatchNorm, as Diffusion Policy uses it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


def _norm(channels: int, folded: bool) -> nn.Module:
    return nn.Identity() if folded else nn.GroupNorm(max(1, channels // 16), channels)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; the names are torchvision's."""

    def __init__(self, inputs: int, outputs: int, stride: int, folded: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=folded)
        self.bn1 = _norm(outputs, folded)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=folded)
        self.bn2 = _norm(outputs, folded)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=folded), _norm(outputs, folded))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(out + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Sequential):
    """Feature maps at 1/32 of the input: [B, 3, h, w] -> [B, 8 * width, h / 32, w / 32].

    A sequence (conv, norm, relu, pool, four stages) as the published encoders cut it, so the
    weights' names are `0.weight`, `1.weight`, `4.0.conv1.weight`, ... With `folded` there are no
    norms: those of a trained net with BatchNorm became part of its convolutions.
    """

    def __init__(self, width: int = 64, blocks: Sequence[int] = (2, 2, 2, 2),
                 folded: bool = False) -> None:
        stem = [nn.Conv2d(3, width, 7, 2, 3, bias=folded), _norm(width, folded),
                nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
        stages, inputs = [], width
        for i, count in enumerate(blocks):
            outputs = width * 2**i
            stages.append(nn.Sequential(*(
                BasicBlock(inputs if j == 0 else outputs, outputs, 2 if i and j == 0 else 1,
                           folded)
                for j in range(count))))
            inputs = outputs
        super().__init__(*stem, *stages)
        self.channels = inputs
