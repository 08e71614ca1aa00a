"""The reference engine: torch, on the GPU where there is one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from diffusion_policy_rt.engines.bundle import WEIGHTS, Bundle
from diffusion_policy_rt.engines.executed import summary
from diffusion_policy_rt.engines.torch_weights import each_weight
from diffusion_policy_rt.errors import EngineError
from diffusion_policy_rt.model.masked import MaskedStep
from diffusion_policy_rt.model.policy import Policy, parts
from diffusion_policy_rt.model.split import split
from diffusion_policy_rt.runtime.blocks import (
    BlockSchedule, Blockwise, blockwise, read_schedules)
from diffusion_policy_rt.runtime.conditioned import Conditioned
from diffusion_policy_rt.runtime.ports import Layer
from diffusion_policy_rt.runtime.precond import denoise
from diffusion_policy_rt.spec import Schedule


PRODUCTS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d)


def load_policy(bundle: Bundle, building: AbstractContextManager[None] | None = None,
                put: Callable[[Tensor, Tensor], object] = Tensor.copy_) -> Policy:
    """Build the bundle's networks with their weights; EngineError where these do not fit.

    The networks are built within `building`, and each weight, read by itself, is `put` into its
    place: so spread ones are never whole.
    """
    with building or nullcontext():
        policy = Policy(bundle.spec, bundle.model)
    try:
        _fill(policy, bundle.path(WEIGHTS), put)
    except RuntimeError as error:
        raise EngineError(f'{bundle.folder}: the weights do not fit the model: '
                          f'{str(error).splitlines()[-1].strip()}') from error
    return policy.eval()


def _fill(policy: Policy, path: Path, put: Callable[[Tensor, Tensor], object]) -> None:
    left = policy.state_dict()
    for name, value in each_weight(path, policy):
        if value.shape == left[name].shape:
            put(left.pop(name), value)
    if left:
        name = min(left)
        raise RuntimeError(f'there is no {name} of shape {list(left[name].shape)}')


class TorchNetworks:
    """Both ports over a policy's networks, eager, where the policy lies."""

    def __init__(self, policy: Policy) -> None:
        self._policy, self._precond = policy, policy.spec.precond
        self._device = next(policy.parameters()).device

    @torch.inference_mode()
    def encode(self, camera: str, image: np.ndarray) -> np.ndarray:
        """Encode float32 [3, h, w] to float32 [L]."""
        batch = torch.from_numpy(image[None]).to(self._device)
        return self._policy.encoders[camera](batch)[0].cpu().numpy()

    @torch.inference_mode()
    def network(self, x: np.ndarray, c_noise: float, cond: np.ndarray,
                *c_stop: float) -> np.ndarray:
        """Run the raw network: x float32 [H, A], cond float32 [C] to float32 [H, A]."""
        level, *stop = (torch.tensor([c], dtype=torch.float32, device=self._device)
                        for c in (c_noise, *c_stop))
        made = self._policy.denoiser(self._batch(x), level, self._batch(cond), *stop)
        return made[0].cpu().numpy()

    def _batch(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array[None])).to(self._device)

    def denoise(self, x: np.ndarray, sigma: float, cond: np.ndarray,
                stop: float = 0.0) -> np.ndarray:
        """Estimate the clean chunk, float64 [H, A]."""
        return denoise(self.network, self._precond, x, sigma, cond, stop)


class TorchEngine(TorchNetworks):
    """A bundle in torch: eager, its denoiser in parts; or compiled, as a whole."""

    name = 'torch'

    def __init__(self, bundle: Bundle, threads: int = 1, compiled: bool = False) -> None:
        torch.set_num_threads(threads)
        super().__init__(load_policy(bundle).to('cuda' if torch.cuda.is_available() else 'cpu'))
        self.executed = {
            part: [Layer(name, type(layer).__name__, str(layer.weight.dtype).split('.')[1])
                   for name, layer in module.named_modules() if isinstance(layer, PRODUCTS)]
            for part, module in parts(self._policy).items()}
        self.dtypes = {part: summary(layers) for part, layers in self.executed.items()}
        self.conditioned: Conditioned[Tensor] | None = None
        self.blocks = Counter[str]()
        self._schedules: dict[tuple[float, ...], BlockSchedule] = {}
        if compiled:
            for module in parts(self._policy).values():
                module.compile()
            return
        self._split = split(self._policy.denoiser)
        self.conditioned = Conditioned(self._level, self._observed, self._step)
        self._schedules = read_schedules(bundle.blocks)

    def network(self, x: np.ndarray, c_noise: float, cond: np.ndarray,
                *c_stop: float) -> np.ndarray:
        """Run the raw network, keeping what does not depend on x."""
        if self.conditioned is None:
            return super().network(x, c_noise, cond, *c_stop)
        return self.conditioned(x, c_noise, cond, *c_stop)

    def blockwise(self, schedule: Schedule) -> Blockwise | None:
        """Return the denoiser of one plan; None for levels that the bundle has no blocks for."""
        return blockwise(self._schedules, schedule, self._precond, self.conditioned, self._masked,
                         self.blocks)

    @torch.inference_mode()
    def _masked(self, fresh: str, x: np.ndarray, level: Tensor, observed: Tensor,
                kept: list[Tensor]) -> tuple[np.ndarray, list[Tensor]]:
        step = MaskedStep(self._split.step, fresh)
        output, *made = step(self._batch(x), level, observed, *kept)
        return output[0].cpu().numpy(), made

    @torch.inference_mode()
    def _level(self, *levels: float) -> Tensor:
        return self._split.level(*(torch.tensor([c], dtype=torch.float32, device=self._device)
                                   for c in levels))

    @torch.inference_mode()
    def _observed(self, cond: np.ndarray) -> Tensor:
        return self._split.observed(self._batch(cond))

    @torch.inference_mode()
    def _step(self, x: np.ndarray, level: Tensor, observed: Tensor) -> np.ndarray:
        return self._split.step(self._batch(x), level, observed)[0].cpu().numpy()
