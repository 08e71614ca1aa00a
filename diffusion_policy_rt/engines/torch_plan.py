"""A whole plan in torch: every encoder and all steps of a `ddim` schedule, for one CUDA graph."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from diffusion_policy_rt.errors import EngineError
from diffusion_policy_rt.model.policy import Policy
from diffusion_policy_rt.runtime.precond import coefficients, stop_noise


class TorchPlan(nn.Module):
    """Images {camera: [n_obs, 3, h, w]}, the rest of the condition and noise to a chunk.

    What depends on the schedule alone is computed once, in float64, as the runtime does.
    """

    def __init__(self, policy: Policy, steps: int) -> None:
        """EngineError for a schedule that draws noise between its steps."""
        super().__init__()
        spec = policy.spec
        schedule = spec.schedule(steps)
        if schedule.kind not in ('ddim', 'ddim_unclipped', 'point') and steps > 1:
            raise EngineError(f'a schedule of kind {schedule.kind} draws noise between its steps; '
                              'only ddim and point are one graph')
        self.unclipped = schedule.kind == 'ddim_unclipped'
        self.policy, self.clip = policy, spec.clip
        self.sigmas = (*schedule.sigmas, 0.0)
        first = float((schedule.sigmas[0]**2 + spec.precond.sigma_data**2) ** 0.5)
        self.start = 0.0 if schedule.kind == 'point' else first
        self.levels = [tuple(map(float, coefficients(spec.precond, s))) for s in schedule.sigmas]
        self.stops = [float(stop_noise(spec.precond, s)) for s in self.sigmas[1:]]
        self.told = spec.precond.stop_time

    def forward(self, images: Mapping[str, Tensor], states: Tensor, rest: Tensor,
                noise: Tensor) -> Tensor:
        """Return the normalised chunk [1, H, A].

        `states` [n_obs, S] are normalised; `rest` [1, R] is what follows the observation in the
        condition; `noise` [1, H, A] is standard normal.
        """
        latents = self.policy.encode({name: x[None] for name, x in images.items()})
        cond = torch.cat((self.policy.observed(latents, states[None]), rest), dim=1)
        x = noise * self.start
        for i, (sigma, following) in enumerate(zip(self.sigmas, self.sigmas[1:])):
            free = x0 = self._denoise(x, i, cond)
            if self.clip is not None:
                x0 = x0.clamp(-self.clip, self.clip)
            x = x0 + following / sigma * (x - (free if self.unclipped else x0))
        return x

    def _denoise(self, x: Tensor, i: int, cond: Tensor) -> Tensor:
        c_skip, c_out, c_in, c_noise = self.levels[i]
        levels = [x.new_full((1,), c_noise)]
        stop = [x.new_full((1,), self.stops[i])] if self.told else []
        return c_skip * x + c_out * self.policy.denoiser(c_in * x, *levels, cond, *stop)


class CapturedPlan:
    """A plan as one CUDA graph over inputs at fixed places."""

    def __init__(self, plan: TorchPlan, images: Mapping[str, Tensor], states: Tensor,
                 rest: Tensor, noise: Tensor) -> None:
        """Capture; the tensors, on the GPU, are the places that inputs are copied to."""
        self.inputs = {**images, 'states': states, 'rest': rest, 'noise': noise}
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream), torch.inference_mode():
            for _ in range(3):  # libraries choose kernels and take memory on their first calls
                plan(images, states, rest, noise)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph), torch.inference_mode():
            self._output = plan(images, states, rest, noise)

    def __call__(self) -> Tensor:
        """Replay; return the normalised chunk [1, H, A], which the next call overwrites."""
        self._graph.replay()
        return self._output
