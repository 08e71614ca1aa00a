"""The reference engine: torch, on the GPU where there is one."""

from __future__ import annotations

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from diffusion_policy_rt.engines.bundle import Bundle
from diffusion_policy_rt.errors import EngineError
from diffusion_policy_rt.model.policy import Policy
from diffusion_policy_rt.runtime.precond import denoise


class TorchEngine:
    """Encoder and Denoiser in eager torch."""

    name = 'torch'

    def __init__(self, bundle: Bundle, threads: int = 1) -> None:
        torch.set_num_threads(threads)
        self._device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
        self._precond = bundle.spec.precond
        policy = Policy(bundle.spec, bundle.model)
        try:
            policy.load_state_dict(load_file(bundle.path('weights.safetensors')))
        except (RuntimeError, SafetensorError) as error:
            raise EngineError(f'{bundle.folder}: the weights do not fit the model: '
                              f'{str(error).splitlines()[-1].strip()}') from error
        self._policy = policy.to(self._device).eval()
        self.dtypes = {name.split('.')[0]: str(p.dtype).removeprefix('torch.')
                       for name, p in self._policy.named_parameters()}

    @torch.inference_mode()
    def encode(self, camera: str, image: np.ndarray) -> np.ndarray:
        """Encode float32 [3, h, w] to float32 [L]."""
        batch = torch.from_numpy(image[None]).to(self._device)
        return self._policy.encoders[camera](batch)[0].cpu().numpy()

    @torch.inference_mode()
    def network(self, x: np.ndarray, c_noise: float, cond: np.ndarray) -> np.ndarray:
        """Run the raw network: x float32 [H, A], cond float32 [C] to float32 [H, A]."""
        tensors = (torch.from_numpy(np.ascontiguousarray(a[None])).to(self._device)
                   for a in (x, cond))
        level = torch.tensor([c_noise], dtype=torch.float32, device=self._device)
        sample, condition = tensors
        return self._policy.denoiser(sample, level, condition)[0].cpu().numpy()

    def denoise(self, x: np.ndarray, sigma: float, cond: np.ndarray) -> np.ndarray:
        """Estimate the clean chunk, float64 [H, A]."""
        return denoise(self.network, self._precond, x, sigma, cond)
