"""Encoders as graphs of a few layers each, for engines that compute only what moved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from diffusion_policy_rt.engines.bundle import GEOMETRY, HEAD, stage_part
from diffusion_policy_rt.model.encoder import KeypointEncoder
from diffusion_policy_rt.model.policy import Policy
from diffusion_policy_rt.runtime.receptive import ReceptiveField

DYNAMIC = {'x': {2: 'rows', 3: 'columns'}, 'y': {2: 'rows_out', 3: 'columns_out'}}
"""A stage takes patches of any size."""


@dataclass(frozen=True)
class StageGraph:
    """What is exported as one graph, from `x` to `y`."""

    name: str
    part: str
    """The part of the policy that the weights belong to."""
    module: nn.Module
    example: Tensor
    dynamic: dict[str, dict[int, str]] | None
    metadata: dict[str, str]


class Located(nn.Module):
    """An encoder's last part alone."""

    def __init__(self, encoder: KeypointEncoder) -> None:
        super().__init__()
        self.located = encoder.located

    def forward(self, heat: Tensor) -> Tensor:
        return self.located(heat)


def stage_graphs(policy: Policy) -> list[StageGraph]:
    """Return the stages, and then the head, of each encoder that sees neighbourhoods alone."""
    made: list[StageGraph] = []
    for camera in policy.spec.cameras:
        encoder, x = policy.encoders[camera.name], torch.zeros(1, 3, *camera.input_size)
        if not isinstance(encoder, KeypointEncoder):
            continue
        part = f'encoder_{camera.name}'
        for number, (layers, stage) in enumerate(zip(encoder.convolutions(), encoder.stages())):
            fields = list(map(_field, layers))
            x = nn.functional.pad(x, (fields[0].margin,) * 4)
            made.append(StageGraph(
                stage_part(camera.name, number), part, stage, x, DYNAMIC,
                {key: ' '.join(map(str, told)) for key, told in zip(GEOMETRY, zip(*fields))}))
            x = stage(x).detach()
        made.append(StageGraph(stage_part(camera.name, HEAD), part, Located(encoder), x, None, {}))
    return made


def _field(layer: nn.Conv2d) -> ReceptiveField:
    """Return what a layer sees; it is the same in rows and in columns."""
    margin = cast(tuple[Any, ...], layer.padding)[0]
    return ReceptiveField((layer.kernel_size[0] - 1) * layer.dilation[0] + 1, layer.stride[0],
                          int(margin))
