"""What `dprt train` learns: keypoints (the encoder), then the noise of chunks (the policy)."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from diffusion_policy_rt.model.policy import Policy
from diffusion_policy_rt.runtime.precond import coefficients
from diffusion_policy_rt.runtime.prefix import NO_PREFIX, PrefixLayout
from diffusion_policy_rt.spec import CameraSpec, PolicySpec, Preconditioning
from diffusion_policy_rt.train.conditions import noised
from diffusion_policy_rt.train.feed import Images
from diffusion_policy_rt.train.pixels import random_shifts, to_inputs
from diffusion_policy_rt.train.prefix import draw_lengths, free_actions, with_prefix
from diffusion_policy_rt.train.recipe import Training

class DenoisingLoss:
    """Denoising score matching in the space of the raw network.

    mean |F(c_in x, c_noise) - (x0 - c_skip x) / c_out|^2, which is EDM's loss with its weight
    (Karras et al. 2022, eq. 8) and, for `ddpm`, epsilon prediction (Ho et al. 2020, eq. 14). A
    random prefix of the chunk is told as committed, and the mean is over the rest.
    """

    def __init__(self, precond: Preconditioning, how: Training,
                 layout: PrefixLayout = NO_PREFIX) -> None:
        self.precond, self.how, self.layout = precond, how, layout

    def draw_sigmas(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Draw noise levels, float64 [count]: uniform in steps (ddpm), else log-normal.

        For `flow` a log-normal sigma is a logit-normal time (Esser et al. 2024).
        """
        if self.precond.kind == 'ddpm':
            return np.asarray(self.precond.levels)[
                rng.integers(len(self.precond.levels), size=count)]
        return np.exp(self.how.sigma_mean + self.how.sigma_std * rng.standard_normal(count))

    def __call__(self, denoiser: nn.Module, x0: Tensor, observed: Tensor,
                 rng: np.random.Generator) -> Tensor:
        cond = with_prefix(self.layout, observed, x0, draw_lengths(self.layout, len(x0), rng))
        free = free_actions(self.layout, x0, cond)
        sigma = self.draw_sigmas(len(x0), rng)
        noise = torch.from_numpy(rng.standard_normal(tuple(x0.shape), np.float32)).to(x0)
        columns = [torch.from_numpy(np.asarray(c, np.float32)).to(x0)
                   for c in (sigma, *coefficients(self.precond, sigma))]
        s, c_skip, c_out, c_in = (c[:, None, None] for c in columns[:4])
        x = x0 + s * noise
        error = denoiser(c_in * x, columns[4], cond) - (x0 - c_skip * x) / c_out
        return (free * error.square()).sum() / (free.sum() * x0.shape[-1])


class KeypointObjective:
    """Teach one camera's encoder where the data set's keypoints are, under shifts of the image."""

    def __init__(self, encoder: nn.Module, camera: CameraSpec, images: Images,
                 targets: np.ndarray, held_out: np.ndarray, max_shift: int,
                 device: torch.device) -> None:
        self.module, self.camera, self.max_shift = encoder, camera, max_shift
        self.images = images
        self.targets = torch.from_numpy(targets).to(device)  # [N, 2K] in [-1, 1], unshifted
        self.train_rows = np.flatnonzero(~held_out)
        self.held_out = np.flatnonzero(held_out)

    def errors(self, module: nn.Module, rows: np.ndarray, shifts: Tensor) -> Tensor:
        """Return the error of each coordinate [B, 2K], in half image widths."""
        device = self.targets.device
        shifts, index = shifts.to(device), torch.from_numpy(rows).to(device)
        latents = module(to_inputs(self.images.take(self.camera.name, rows), self.camera, shifts))
        size = torch.tensor(self.camera.input_size, device=device)
        canvas = torch.tensor((self.camera.height, self.camera.width), device=device)
        moved = (2 * shifts / size).flip(-1)  # (x, y) by which the content moved back
        zoom = (canvas / size).flip(-1)  # from the whole image's coordinates to the crop's
        targets = self.targets[index].unflatten(-1, (-1, 2)) * zoom - moved[:, None, :]
        return latents - targets.flatten(1)

    def loss(self, module: nn.Module, rows: np.ndarray, rng: np.random.Generator) -> Tensor:
        """Mean absolute error, in units of 1/100 of half the image."""
        shifts = random_shifts(len(rows), (self.max_shift, self.max_shift), rng)
        return 100 * self.errors(module, rows, shifts).abs().mean()

    @torch.no_grad()
    def validate(self, module: nn.Module) -> float:
        """Return the held-out loss, without shifts."""
        module.eval()
        parts = np.array_split(self.held_out, max(1, len(self.held_out) // 256))
        return float(np.mean([100 * self.errors(
            module, rows, torch.zeros(len(rows), 2, dtype=torch.long)).abs().mean().item()
            for rows in parts if len(rows)])) if len(self.held_out) else float('nan')


class LatentObjective:
    """Train the denoiser on conditions computed once by frozen encoders."""

    def __init__(self, policy: Policy, observed: np.ndarray, chunks: np.ndarray,
                 held_out: np.ndarray, chosen: np.ndarray, noise: np.ndarray, how: Training,
                 device: torch.device) -> None:
        """Of all windows, those `chosen` [W] are learned from and validated on."""
        self.module: nn.Module = policy.denoiser
        self.denoising = DenoisingLoss(policy.spec.precond, how,
                                       PrefixLayout.of(policy.spec))
        self.observed = torch.from_numpy(observed).to(device)
        self.chunks = torch.from_numpy(chunks).to(device)
        self.noise = noise.astype(np.float32)  # [observed_dim] standard deviation
        self.train_rows = np.flatnonzero(chosen & ~held_out)
        self.held_out = np.flatnonzero(chosen & held_out)
        self.make = policy.make_denoiser

    def loss(self, module: nn.Module, rows: np.ndarray, rng: np.random.Generator) -> Tensor:
        """Return the denoising loss on these windows."""
        index = torch.from_numpy(rows).to(self.chunks.device)
        return self.denoising(module, self.chunks[index],
                              noised(self.observed[index], self.noise, rng), rng)

    @torch.no_grad()
    def validate(self, module: nn.Module) -> float:
        """Return the loss on the held-out windows, with the same noise each time."""
        if not len(self.held_out):
            return float('nan')
        module.eval()
        index = torch.from_numpy(self.held_out).to(self.chunks.device)
        return self.denoising(module, self.chunks[index], self.observed[index],
                              np.random.default_rng(0)).item()


class PixelObjective:
    """Train encoders and denoiser together, from augmented pixels."""

    def __init__(self, policy: Policy, images: Images, states: np.ndarray,
                 observed: np.ndarray, chunks: np.ndarray, held_out: np.ndarray, how: Training,
                 device: torch.device) -> None:
        self.module: nn.Module = policy
        self.make = policy.another
        self.spec: PolicySpec = policy.spec
        self.denoising = DenoisingLoss(policy.spec.precond, how,
                                       PrefixLayout.of(policy.spec))
        self.images = images
        self.states = torch.from_numpy(states.astype(np.float32)).to(device)  # normalised [N, S]
        self.observed = observed
        self.chunks = torch.from_numpy(chunks).to(device)
        self.train_rows, self.held_out = np.flatnonzero(~held_out), np.flatnonzero(held_out)

    def _inputs(self, camera: CameraSpec, rows: np.ndarray,
                rng: np.random.Generator | None) -> Tensor:
        images = self.images.take(camera.name, rows.flatten())
        cut_rows, cut_columns = camera.input_size
        spare = (camera.height - cut_rows) // 2, (camera.width - cut_columns) // 2
        shifts = torch.zeros(len(images), 2, dtype=torch.long) if rng is None else (
            random_shifts(len(rows), spare, rng).repeat_interleave(rows.shape[1], 0))
        return to_inputs(images, camera, shifts.to(images.device)).unflatten(0, rows.shape)

    def _loss(self, module: nn.Module, rows: np.ndarray, rng: np.random.Generator,
              augment: bool) -> Tensor:
        observed, device = self.observed[rows], self.chunks.device
        images = {camera.name: self._inputs(camera, observed, rng if augment else None)
                  for camera in self.spec.cameras}
        policy = cast(Policy, module)
        states = self.states[torch.from_numpy(observed).to(device)]
        seen = policy.observed(policy.encode(images), states)
        return self.denoising(policy.denoiser, self.chunks[torch.from_numpy(rows).to(device)],
                              seen, rng)

    def loss(self, module: nn.Module, rows: np.ndarray, rng: np.random.Generator) -> Tensor:
        """Return the denoising loss on these windows, their images cropped at random."""
        return self._loss(module, rows, rng, augment=True)

    @torch.no_grad()
    def validate(self, module: nn.Module) -> float:
        """Return the loss on up to 512 held-out windows, with the same noise each time."""
        if not len(self.held_out):
            return float('nan')
        module.eval()
        rows = self.held_out[::max(1, len(self.held_out) // 512)]
        return float(np.mean([self._loss(module, part, np.random.default_rng(0), False).item()
                              for part in np.array_split(rows, max(1, len(rows) // 64))]))
