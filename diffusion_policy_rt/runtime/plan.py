"""Plans: from an observation and its latents to chunks, one after each network call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from diffusion_policy_rt.runtime.chunk import Chunk, continued
from diffusion_policy_rt.runtime.observation import Observation, observed
from diffusion_policy_rt.runtime.ports import Denoiser
from diffusion_policy_rt.runtime.prefix import PrefixLayout
from diffusion_policy_rt.runtime.sampler import estimates
from diffusion_policy_rt.runtime.trace import Rung
from diffusion_policy_rt.spec import PolicySpec

PLAN_FAULTS = ('late', 'cut_short', 'raised', 'not_finite')
"""What is counted of plans: later than their tick, used before they were done, failed."""


@dataclass(frozen=True)
class Plan:
    """One inference and what it cost."""

    chunk: Chunk
    rung: Rung
    """FRESH; FEWER when the deadline allowed fewer steps than `max_steps`; CACHED when there was
    no frame to encode: the observation is that of an earlier plan."""
    cache_hits: int
    skew_ns: int
    encode_ns: int
    denoise_ns: int
    plan_ns: int


class Fate(NamedTuple):
    """What became of a plan: all that its ticks' actions depend on, beside what it saw."""

    steps: int
    """Network calls that it was to make; 0 for one that was refused."""
    followed: int
    """Network calls behind what the tick that asked for it followed: all of them, as many as the
    estimate had that it was cut short to, or 0 where nothing was there in time."""
    used_ns: int
    """When it was there in time; else the first tick that followed the whole of it, or when it was
    given up [ns]."""

    @property
    def prompt(self) -> bool:
        """Whether the tick that asked for it followed the whole of it."""
        return self.followed == self.steps > 0


def rung_of(steps: int, most: int, anew: bool) -> Rung:
    """Return the rung of a plan of so many steps, of at most `most`; `anew` if images are new."""
    if not anew:
        return Rung.CACHED
    return Rung.FRESH if steps == most else Rung.FEWER


def chunk_estimates(spec: PolicySpec, denoiser: Denoiser, seed: int, observation: Observation,
                    latents: Mapping[str, list[np.ndarray]], steps: int,
                    noise: np.ndarray | None = None, given: np.ndarray | None = None,
                    last: Chunk | None = None) -> Iterator[Chunk | None]:
    """Yield the chunk that there is after each network call; None when it is not finite.

    It goes on from the committed actions `given` [d, A] in units, d at most the spec's prefix.
    The noise depends on the seed and on the observation's stamp alone, so the same frames give
    the same actions live and offline, at any load; but a schedule with a warm start goes on from
    the `last` chunk.
    """
    start = observation.stamp_ns - (spec.n_obs - 1) * spec.step_ns
    rng = np.random.default_rng((seed, observation.stamp_ns % 2**64))
    if noise is None:
        noise = rng.standard_normal((spec.horizon, len(spec.action)), np.float32)
    layout, state = PrefixLayout.of(spec), observation.states[-1]
    held = spec.encode_actions(np.zeros((0, len(spec.action))) if given is None else given, state)
    cond = np.concatenate([observed(spec, latents, observation.states), layout.tail(held)])
    made = estimates(
        layout.hold(lambda x, sigma, stop: denoiser.denoise(x, sigma, cond, stop), held),
        spec.schedule(steps), noise, spec.precond.sigma_data, spec.clip, rng,
        _guess(spec, observation, last, steps))
    for calls, normalised in enumerate(made, 1):
        yield Chunk(start, spec.step_ns, spec.decode_actions(normalised, state),
                    observation.stamp_ns, calls) if np.isfinite(normalised).all() else None


def _guess(spec: PolicySpec, observation: Observation, last: Chunk | None,
           steps: int) -> np.ndarray | None:
    """Return what the last chunk says of the new one, normalised, for a warm start."""
    if not spec.schedule(steps).warm_sigmas:
        return None
    start = observation.stamp_ns - (spec.n_obs - 1) * spec.step_ns
    actions = continued(last, start, observation.stamp_ns)
    return None if actions is None else spec.encode_actions(actions, observation.states[-1])
