"""What a policy would do: many chunks for one observation."""

from __future__ import annotations

from collections import deque

import numpy as np
import torch

from diffusion_policy_rt.engines.bundle import Bundle
from diffusion_policy_rt.engines.torch_engine import load_policy
from diffusion_policy_rt.runtime.frame import to_input
from diffusion_policy_rt.runtime.observation import observed
from diffusion_policy_rt.runtime.precond import denoise
from diffusion_policy_rt.runtime.prefix import PrefixLayout
from diffusion_policy_rt.runtime.sampler import sample


class Proposals:
    """A bundle of one camera, asked for many chunks at once."""

    def __init__(self, bundle: Bundle, steps: int) -> None:
        self.spec, self.steps = bundle.spec, steps
        self.camera = bundle.spec.cameras[0]
        self._policy = load_policy(bundle)
        self._latents: deque[np.ndarray] = deque(maxlen=self.spec.n_obs)
        self._states: deque[np.ndarray] = deque(maxlen=self.spec.n_obs)

    def begin(self) -> None:
        """Forget the last episode."""
        self._latents.clear()
        self._states.clear()

    @torch.inference_mode()
    def observe(self, image: np.ndarray, state: np.ndarray) -> None:
        """Take in this control step's image, uint8 [H, W, 3], and state [S] in units."""
        batch = torch.from_numpy(to_input(image, self.camera))[None]
        latent = self._policy.encoders[self.camera.name](batch)[0].numpy()
        missing = self.spec.n_obs - len(self._latents)  # the first stands for the earlier ones
        self._latents.extend([latent] * max(1, missing))
        self._states.extend([np.asarray(state, float)] * max(1, missing))

    @torch.inference_mode()
    def chunks(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Draw chunks from the action due now on, float32 [count, T, A] in units."""
        spec, states = self.spec, np.array(self._states)
        head = observed(spec, {self.camera.name: list(self._latents)}, states)
        cond = np.concatenate([head, PrefixLayout.of(spec).tail(np.zeros((0, 2)))])
        rows = torch.from_numpy(cond)[None].expand(count, -1)

        def network(x: np.ndarray, level: float, _: np.ndarray, *stop: float) -> np.ndarray:
            start, *told = (torch.full((count,), at) for at in (level, *stop))
            return self._policy.denoiser(torch.from_numpy(x), start, rows, *told).numpy()

        made = sample(lambda x, sigma, stop: denoise(network, spec.precond, x, sigma, cond, stop),
                      spec.schedule(self.steps),
                      rng.standard_normal((count, spec.horizon, len(spec.action))),
                      spec.precond.sigma_data, spec.clip, rng)
        return np.stack([spec.decode_actions(x, states[-1]) for x in made])[:, spec.n_obs - 1:]
