"""From what was observed to a plan: observe, encode, choose the steps, sample. No threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from diffusion_policy_rt.errors import FrameError
from diffusion_policy_rt.runtime.caches import (
    CacheRules, denoiser_figures, denoiser_of, keep_conditions)
from diffusion_policy_rt.runtime.chunk import Chunk, join
from diffusion_policy_rt.runtime.clock import Clock, Deadline
from diffusion_policy_rt.runtime.frame import Frame, window
from diffusion_policy_rt.runtime.guard import Guard, StreamRule
from diffusion_policy_rt.runtime.latency import LatencyModel, choose_steps
from diffusion_policy_rt.runtime.latents import LatentCache
from diffusion_policy_rt.runtime.observation import NotReady, Observation, ObservationBuffer
from diffusion_policy_rt.runtime.plan import Plan, chunk_estimates, rung_of
from diffusion_policy_rt.runtime.ports import Engine
from diffusion_policy_rt.runtime.prefix import committed
from diffusion_policy_rt.runtime.settings import LoopSettings
from diffusion_policy_rt.runtime.tiles import TileRule
from diffusion_policy_rt.runtime.tiling import Tiling
from diffusion_policy_rt.runtime.variants import warmed
from diffusion_policy_rt.runtime.warm import WarmStart
from diffusion_policy_rt.spec import PolicySpec


class Inference:
    """One policy and all that it keeps of what it has computed; used by the planning thread."""

    def __init__(self, spec: PolicySpec, engine: Engine, settings: LoopSettings, clock: Clock,
                 seed: int = 0, rules: Mapping[str, StreamRule] | None = None) -> None:
        settings.check(spec)
        self.spec, self.engine, self.settings, self.seed = spec, engine, settings, seed
        self.latencies = LatencyModel()
        self.guard = Guard((camera.name for camera in spec.cameras), rules)
        self.rules = CacheRules(max(1, 4 * spec.n_obs * len(spec.cameras)),
                                tiles={camera.name: TileRule() for camera in spec.cameras})
        self.cache = LatentCache(self.rules.capacity)
        self.tiling = Tiling(spec, engine)
        self.warm, self._sampled = WarmStart(spec.action.scale), spec
        self._clock = clock
        self._buffer = ObservationBuffer(spec)
        self.looked: dict[str, int] = {}
        """The newest stamp of each stream when the last plan looked [ns]."""
        self.chosen = 0
        """Network calls that the last plan was to make; 0 where it has not come to choosing."""

    def keep(self, rules: CacheRules) -> None:
        """Use other rules of caches from the next plan on."""
        self.rules = rules
        self._sampled = warmed(self.spec, rules.warm_start, rules.warm_noise)
        self.cache.capacity, self.tiling.rules = rules.capacity, rules.tiles
        keep_conditions(self.engine, rules.condition)

    def cache_figures(self) -> dict[str, object]:
        """Return what the caches but that of latents tell of themselves."""
        return {**denoiser_figures(self.engine), **self.tiling.figures(),
                'warm_start.plans': self.warm.plans, 'warm_start.restarts': self.warm.restarts}

    def observe(self, now_ns: int) -> Observation | NotReady:
        """Return the newest observation, or why there is none."""
        self._buffer.collect()
        self.looked = self._buffer.newest
        return self._buffer.observe(now_ns, self.settings.observation_timeout_ns,
                                    round(self.settings.max_camera_skew * 1e9))

    def infer(self, now_ns: int, budget_ns: int | None, offer: Callable[[Plan], None] | None,
              before: Chunk | None) -> Plan | NotReady:
        """Return a plan that goes on from the chunk `before` it, or why there is none.

        `budget_ns` and `offer` are those of `PolicyLoop.plan`.
        """
        began, self.chosen = self._clock.now_ns(), 0
        observation = self.observe(now_ns)
        if isinstance(observation, NotReady):
            return observation
        hits, misses = self.cache.hits, self.cache.misses
        latents = self._encode(observation)
        if isinstance(latents, NotReady):
            return latents
        encoded = self._clock.now_ns()
        self.latencies.record('encode', encoded - began)
        allowed = self.settings.allowed_steps(self.spec)
        left = Deadline(began, budget_ns).left_ns(encoded) if budget_ns is not None else np.inf
        self.chosen = steps = self.choose(allowed, left)
        given = committed(self.spec, before, observation.stamp_ns, now_ns)
        joint = self.settings.joint(self.spec.action)
        goes_on = self._sampled.schedule(steps).warm_sigmas
        last = self.warm.of(before, now_ns) if goes_on else None
        for chunk in self.estimates(observation, latents, steps, given=given, last=last):
            if chunk is None:
                return NotReady('the engine returned a value that is not finite',
                                kind='not_finite')
            chunk = join(before, chunk, now_ns, joint)
            done = self._clock.now_ns()
            anew = self.cache.misses > misses or not self.spec.cameras
            plan = Plan(chunk, rung_of(chunk.steps, max(allowed), anew),
                        self.cache.hits - hits, observation.skew_ns, encoded - began,
                        done - encoded, done - began)
            if offer is not None and chunk.steps < steps:
                offer(plan)
        self.latencies.record(steps, done - encoded)
        return plan

    def choose(self, allowed: tuple[int, ...], left_ns: float) -> int:
        """Return how many of the `allowed` network calls a plan makes that has `left_ns`."""
        steps = choose_steps(allowed, self.latencies, left_ns)
        for passed_over in allowed[allowed.index(steps) + 1:]:
            self.latencies.pass_over(passed_over)
        return steps

    def _encode(self, observation: Observation) -> dict[str, list[np.ndarray]] | NotReady:
        latents: dict[str, list[np.ndarray]] = {name: [] for name in observation.frames}
        for frame in (frame for frames in observation.frames.values() for frame in frames):
            try:
                latents[frame.camera].append(self.cache.get(frame, self._encode_frame))
            except FrameError as error:
                self._buffer.discard(frame)
                return NotReady(str(error), frame.camera, error.kind)
        return latents

    def _encode_frame(self, frame: Frame) -> np.ndarray:
        rgb = frame.decode()
        pixels = window(rgb, self.spec.camera(frame.camera))
        self.guard.look(frame, rgb)
        return self.tiling.encode(frame.camera, pixels, frame.stamp_ns)

    def sample(self, observation: Observation, latents: Mapping[str, list[np.ndarray]],
               steps: int, noise: np.ndarray | None = None,
               given: np.ndarray | None = None) -> Chunk | None:
        """Return the last of `estimates`: a sampled chunk; None when it is not finite."""
        *_, last = self.estimates(observation, latents, steps, noise, given)
        return last

    def estimates(self, observation: Observation, latents: Mapping[str, list[np.ndarray]],
                  steps: int, noise: np.ndarray | None = None,
                  given: np.ndarray | None = None,
                  last: Chunk | None = None) -> Iterator[Chunk | None]:
        """Yield what there is after each network call, as `plan.chunk_estimates` does."""
        denoiser = denoiser_of(self.engine, self._sampled.schedule(steps), self.rules)
        return chunk_estimates(self._sampled, denoiser, self.seed, observation, latents, steps,
                               noise, given, last)

    def forget(self) -> None:
        """Forget what was observed and computed."""
        self._buffer.clear()
        self.cache.clear()
        self.tiling.clear()
        self.warm.clear()
