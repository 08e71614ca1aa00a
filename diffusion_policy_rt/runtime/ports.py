"""What an engine offers to the loop."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np

from diffusion_policy_rt.runtime.receptive import ReceptiveField, spoiled, together
from diffusion_policy_rt.spec import Schedule


@dataclass(frozen=True)
class Layer:
    """One product - a linear layer or a convolution - as an engine executes it."""

    name: str
    op: str
    dtype: str
    """Of the weights as they enter the product: int8, float32, ..."""


class Encoder(Protocol):
    """Turns one frame into a latent, which the core never looks into."""

    def encode(self, camera: str, image: np.ndarray) -> np.ndarray:
        """Encode the camera's input, float32 [3, h, w] of `to_input`, to float32 [L]."""


class Denoiser(Protocol):
    """Estimates the clean chunk under a noisy one."""

    def denoise(self, x: np.ndarray, sigma: float, cond: np.ndarray,
                stop: float = 0.0) -> np.ndarray:
        """Return E[x0 | x] for x = x0 + sigma noise: float64 [H, A] from [H, A] and cond [C].

        Actions are normalised; cond is float32, of `PolicyLoop.estimates`. `stop` is the
        level that the step goes to; networks without `stop_time` are not told.
        """


class Engine(Encoder, Denoiser, Protocol):
    """Both ports of one bundle, and the truth about what runs."""

    name: str
    """`onnxruntime`, `torch`, ..."""
    dtypes: dict[str, str]
    """Part -> data type of its products as executed, or `int8 38, float32 3` where they differ."""
    executed: dict[str, list[Layer]]
    """Part -> its products in order of execution."""


class Conditions(Protocol):
    """What an engine keeps of what its denoiser made of conditions."""

    keeps: bool
    """Whether anything is kept."""
    hits: int
    misses: int
    """Calls whose condition was the last one, and those with another."""


@runtime_checkable
class ConditionedEngine(Protocol):
    """An engine that keeps what its denoiser makes of a condition."""

    conditioned: Conditions | None
    """None where the denoiser runs as a whole only."""


@runtime_checkable
class BlockwiseEngine(Protocol):
    """An engine that can keep branches of its denoiser between the calls of a plan."""

    blocks: Counter[str]
    """Branches `computed` and `kept`, over all plans."""

    def blockwise(self, schedule: Schedule) -> Denoiser | None:
        """Return the denoiser of one plan, called once for each level in order.

        None for a bundle that does not tell which branches to keep.
        """


@dataclass(frozen=True)
class Stage:
    """Layers of an encoder on end that see a bounded neighbourhood.

    The first one is given its margin, the others pad by themselves: as many outputs of a patch as
    `spoiled` tells are not those of the whole image, where the image goes on there.
    """

    fields: tuple[ReceptiveField, ...]
    """Of each layer."""
    run: Callable[[np.ndarray], np.ndarray]
    """float32 [C, h, w], margins included, to float32 [D, h', w']."""

    @cached_property
    def field(self) -> ReceptiveField:
        """What all layers together see."""
        return together(self.fields)

    @cached_property
    def spoiled(self) -> tuple[int, int]:
        """Outputs at the beginning and end of a patch that are not those of the whole image."""
        return spoiled(self.fields)

    def outputs(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Return rows and columns of the output for an image of so many, margins not counted."""
        rows, columns = shape
        for field in self.fields:
            rows, columns = field.outputs(rows), field.outputs(columns)
        return rows, columns


@dataclass(frozen=True)
class Staged:
    """An encoder as its stages, and what makes the latent of the last one's output."""

    stages: tuple[Stage, ...]
    head: Callable[[np.ndarray], np.ndarray]
    """float32 [D, h, w] to float32 [L]."""


@runtime_checkable
class StagedEngine(Protocol):
    """An engine that can run encoders stage by stage."""

    def staged(self, camera: str) -> Staged | None:
        """Return the camera's encoder as its stages; None where layers see the whole image."""
