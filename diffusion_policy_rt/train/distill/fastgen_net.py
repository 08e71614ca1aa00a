"""Our denoisers as networks of NVIDIA's FastGen, whose methods then distil our policies.

FastGen is on no package index; the package of that name on PyPI is another program.
"""

from __future__ import annotations

import importlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard

from diffusion_policy_rt.errors import DprtError
from diffusion_policy_rt.train.distill.denoiser import NetworkDenoiser, wide
from diffusion_policy_rt.train.sharding import blocks

INSTALL = ('give it an environment of its own, beside diffusion_policy_rt[distill]: git clone '
           'https://github.com/NVlabs/FastGen; pip install -e FastGen')
EARLIEST = 1e-4
"""The least time at which a velocity is computed, which divides by it."""


@cache
def fastgen(module: str) -> ModuleType:
    """Import a module of FastGen; DprtError without it, or with the other package of its name."""
    found = find_spec('fastgen')  # which does not import it
    if found is None:
        raise DprtError(f'this method needs NVIDIA\'s FastGen: {INSTALL}')
    places = [Path(place) for place in found.submodule_search_locations or ()]
    if not any((place / 'methods').is_dir() and (place / 'networks').is_dir() for place in places):
        raise DprtError(f'the package fastgen at {found.origin} is another one than NVIDIA\'s '
                        f'FastGen; uninstall it, and {INSTALL}')
    try:
        made = importlib.import_module(f'fastgen.{module}')
        # it announces every step of building a model
        importlib.import_module('loguru').logger.disable('fastgen')
    except ImportError as error:
        raise DprtError(f'FastGen does not import here: it lacks {error.name}; pip install '
                        f'{error.name}') from error
    return made


@cache
def network_class() -> type[nn.Module]:
    """Return the class, which is one of FastGen's own."""
    base = fastgen('networks.network').FastGenNetwork

    class ActionChunkNetwork(base):  # type: ignore[misc, valid-type]
        """A denoiser D(x, sigma, cond, stop) in FastGen's times.

        With the schedule `edm` a time is the noise level; with `rf` a sample is (1 - t) x0 + t n,
        which is ours at level t / (1 - t), times 1 - t. `r` is the time that a step goes to.
        """

        def __init__(self, denoiser: NetworkDenoiser, schedule: str, max_t: float,
                     after: Any = None) -> None:
            """`after`: the network whose last level this one is told of as the level gone to."""
            super().__init__('x0', schedule, min_t=0.001 if schedule == 'edm' else 0.0,
                             max_t=max_t)
            self.module, self.denoiser = denoiser.network, denoiser
            self.flow, self.level = schedule == 'rf', np.zeros(0)
            object.__setattr__(self, 'after', after)  # no part of this network

        def level_of(self, t: Tensor) -> np.ndarray:
            """Return the noise levels of times [B]."""
            times = t.detach().double().cpu().numpy()
            return times / (1 - times) if self.flow else times

        def forward(self, x_t: Tensor, t: Tensor, condition: Any = None,
                    r: Tensor | None = None, return_features_early: bool = False,
                    feature_indices: Any = None, return_logvar: bool = False,
                    fwd_pred_type: str | None = None, **_: Any) -> Any:
            t = t.clamp(min=EARLIEST).expand(len(x_t))
            sigma = self.level = self.level_of(t)
            stop = self.after.level if self.after is not None else (
                None if r is None else self.level_of(r.expand(len(x_t))))
            x = x_t / wide(1 - t).to(x_t) if self.flow else x_t
            with Tapped(self.module, bool(feature_indices)) as tap:
                x0 = self.denoiser(x, sigma, condition, stop)
            if return_features_early:
                return tap.features
            made = self.noise_scheduler.convert_model_output(
                x_t, x0, t, src_pred_type='x0',
                target_pred_type=fwd_pred_type or self.net_pred_type)
            if return_logvar:  # sCM's weights are then its prior's alone
                return made, x_t.new_zeros(len(x_t), 1)
            return [made, tap.features] if feature_indices else made

        def fully_shard(self, **options: Any) -> None:
            """Spread the denoiser over processes, block by block."""
            for block in blocks(self.module):
                fully_shard(block, **options)
            fully_shard(self.module, **options)

    return ActionChunkNetwork


class Tapped:
    """While entered, keeps what the module's middle block puts out, as `features`."""

    def __init__(self, module: nn.Module, wanted: bool) -> None:
        self.features: list[Tensor] = []
        inner = list(blocks(module))
        self._block = inner[len(inner) // 2] if wanted else None

    def __enter__(self) -> Tapped:
        if self._block is not None:
            self._handle = self._block.register_forward_hook(
                lambda _, given, made: self.features.append(made))
        return self

    def __exit__(self, *_: object) -> None:
        if self._block is not None:
            self._handle.remove()


class Discriminator(nn.Module):
    """Tells real chunks from generated ones by the teacher's features [B, ...]: logits [B, 1]."""

    feature_indices = frozenset({0})

    def __init__(self, size: int, width: int = 128) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.LayerNorm(size), nn.Linear(size, width), nn.SiLU(),
                                  nn.Linear(width, 1))

    def forward(self, features: list[Tensor]) -> Tensor:
        return self.head(features[0].flatten(1))


@torch.no_grad()
def feature_size(denoiser: NetworkDenoiser, chunk: Tensor, cond: Tensor) -> int:
    """Return how many values the middle block gives for one sample."""
    with Tapped(denoiser.network, True) as tap:
        denoiser(chunk, np.ones(1), cond)
    return tap.features[0].flatten(1).shape[1]
