"""The policy loop: observe, plan, act. No threads, no clock of its own, no ROS.

`observe_*` may be called from one thread, `plan` from another and `act` from a third: samples are
handed over through queues, the chunk and the newest state by one reference assignment each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import numpy as np

from diffusion_policy_rt.errors import FrameError
from diffusion_policy_rt.runtime.acting import Action
from diffusion_policy_rt.runtime.arrivals import Arrivals
from diffusion_policy_rt.runtime.chunk import Chunk, join, splice
from diffusion_policy_rt.runtime.caches import (
    CacheRules, denoiser_figures, denoiser_of, keep_conditions)
from diffusion_policy_rt.runtime.clock import Clock, Deadline
from diffusion_policy_rt.runtime.frame import Frame, window
from diffusion_policy_rt.runtime.guard import Guard, StreamRule
from diffusion_policy_rt.runtime.hands import Hands
from diffusion_policy_rt.runtime.latency import LatencyModel, choose_steps
from diffusion_policy_rt.runtime.latents import LatentCache
from diffusion_policy_rt.runtime.limits import Limits
from diffusion_policy_rt.runtime.observation import (
    ROBOT, NotReady, Observation, ObservationBuffer, State)
from diffusion_policy_rt.runtime.plan import Plan, chunk_estimates, rung_of
from diffusion_policy_rt.runtime.ports import Engine
from diffusion_policy_rt.runtime.prefix import committed, steps_late
from diffusion_policy_rt.runtime.seams import Seams
from diffusion_policy_rt.runtime.settings import LoopSettings
from diffusion_policy_rt.runtime.tiles import TileRule
from diffusion_policy_rt.runtime.tiling import Tiling
from diffusion_policy_rt.runtime.trace import Rung
from diffusion_policy_rt.runtime.variants import warmed
from diffusion_policy_rt.runtime.warm import WarmStart
from diffusion_policy_rt.spec import PolicySpec


class PolicyLoop:
    """One policy, from frames and states to actions."""

    def __init__(self, spec: PolicySpec, engine: Engine, settings: LoopSettings, clock: Clock,
                 seed: int = 0, limits: Limits | None = None, velocity: bool = False,
                 rules: Mapping[str, StreamRule] | None = None) -> None:
        settings.check(spec)
        self.spec, self.engine, self.settings, self.seed = spec, engine, settings, seed
        self.hands = Hands(spec, limits or Limits.none(len(spec.action)), velocity)
        self.latencies = LatencyModel()
        self.arrivals = Arrivals()
        self.guard = Guard((camera.name for camera in spec.cameras), rules)
        self.rules = CacheRules(max(1, 4 * spec.n_obs * len(spec.cameras)),
                                tiles={camera.name: TileRule() for camera in spec.cameras})
        self.cache = LatentCache(self.rules.capacity)
        self.tiling = Tiling(spec, engine)
        self.warm, self._sampled = WarmStart(spec.action.scale), spec
        self._clock = clock
        self._buffer = ObservationBuffer(spec)
        self._chunk: Chunk | None = None
        self._estimate: Chunk | None = None
        """A chunk of a plan that was cut short; only the ticking thread sets it."""
        self._ended_ns: int | None = None
        """Stamp of the chunk that a hold broke off; it is not resumed [ns]."""
        self._epoch = 0
        self.seams = Seams(spec.action.scale)
        self.counts: Counter[str] = Counter()
        """How many plans met with each of `PLAN_FAULTS`."""
        self._planned_ns: int | None = None
        self.looked: dict[str, int] = {}
        """The newest stamp of each stream when the last plan looked [ns]."""
        self.chosen = 0
        """Network calls that the last plan was to make; 0 where it has not come to choosing."""
        self.newest_frame: Frame | None = None

    # -- caches --------------------------------------------------------------------------------

    def keep(self, rules: CacheRules) -> None:
        """Use other rules from the next plan on."""
        self.rules, self._sampled = rules, warmed(self.spec, rules.warm_start)
        self.cache.capacity, self.tiling.rules = rules.capacity, rules.tiles
        keep_conditions(self.engine, rules.condition)

    def cache_figures(self) -> dict[str, object]:
        """Return what the caches but that of latents tell of themselves."""
        return {**denoiser_figures(self.engine), **self.tiling.figures(),
                'warm_start.plans': self.warm.plans, 'warm_start.restarts': self.warm.restarts}

    # -- observe -------------------------------------------------------------------------------

    def observe_frame(self, frame: Frame) -> None:
        """Take in a frame; it is decoded only if a plan needs it."""
        self._buffer.arrive(frame)
        self.newest_frame = frame
        self.arrivals.note(frame)
        self.guard.note(frame.camera, frame.stamp_ns, frame.arrival_ns)

    def observe_state(self, stamp_ns: int, arrival_ns: int, values: np.ndarray) -> None:
        """Take in a measured state [S] in units; SpecError if it is malformed or not finite."""
        self.spec.state.validate(values)
        state = State(stamp_ns, arrival_ns, values)
        self.hands.measure(state, self.settings)
        self._buffer.arrive(state)
        self.guard.note(ROBOT, stamp_ns, arrival_ns)

    @property
    def newest(self) -> Frame | State | None:
        """The sample whose stamp is an observation's instant: a frame, without cameras a state."""
        return self.newest_frame if self.spec.cameras else self.hands.state

    # -- plan ----------------------------------------------------------------------------------

    def wants_plan(self, now_ns: int) -> bool:
        """Whether the last plan's actions to execute, or all it has, are used up at `now_ns`.

        Those to execute count from the observation, as in training: a plan that was late by d
        steps is followed for d actions less, one at least, so that latency adds to no reaction
        time. A robot that was halted plans nothing.
        """
        chunk, planned_ns = self._chunk, self._planned_ns
        if self.guard.halted:
            return False
        if (chunk is None or planned_ns is None or self._broken_off(chunk)
                or not len(chunk.rest(now_ns))):
            return True
        settings = self.settings
        late = steps_late(chunk.stamp_ns, planned_ns, self.spec.step_ns)
        count = max(1, (settings.n_action_steps or self.spec.n_action_steps) - late)
        span = settings.replan_ticks * settings.period_ns or count * self.spec.step_ns
        return 2 * (now_ns - planned_ns) + settings.period_ns > 2 * span

    def observe(self, now_ns: int) -> Observation | NotReady:
        """Return the newest observation, or why there is none."""
        self._buffer.collect()
        self.looked = self._buffer.newest
        return self._buffer.observe(now_ns, self.settings.observation_timeout_ns,
                                    round(self.settings.max_camera_skew * 1e9))

    def plan(self, now_ns: int, budget_ns: int | None = None,
             offer: Callable[[Plan], None] | None = None) -> Plan | NotReady:
        """Plan for the tick at `now_ns`, within `budget_ns` where there is a deadline.

        The new chunk takes over by due time. A frame that is not fit to plan from is forgotten,
        and leaves the old chunk; so does a plan that is overtaken by `reset`. `offer` is given
        what there is after each network call but the last, for a tick that cannot wait longer.
        """
        epoch = self._epoch
        made = self._plan(now_ns, budget_ns, offer)
        if epoch != self._epoch:
            return NotReady('the plan was overtaken by a reset')
        self.guard.judge(made if isinstance(made, NotReady) else None)
        if isinstance(made, Plan):
            self.seams.note(self._chunk, made.chunk, now_ns)
            self._chunk, self._planned_ns = splice(self.current, made.chunk, now_ns), now_ns
        return made

    def _plan(self, now_ns: int, budget_ns: int | None,
              offer: Callable[[Plan], None] | None) -> Plan | NotReady:
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
        before = self.current
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

    # -- act -----------------------------------------------------------------------------------

    @property
    def current(self) -> Chunk | None:
        """The chunk to follow; of two from one observation the one that was not cut short."""
        chunk, estimate = self._chunk, self._estimate
        if estimate is None or chunk is not None and chunk.stamp_ns >= estimate.stamp_ns:
            return chunk
        return estimate

    def adopt(self, plan: Plan) -> None:
        """Follow what a plan in flight has offered, until it is there itself."""
        self._estimate = plan.chunk
        self.counts['cut_short'] += 1

    def _broken_off(self, chunk: Chunk) -> bool:
        return self._ended_ns is not None and chunk.stamp_ns <= self._ended_ns

    def act(self, now_ns: int, plan: Plan | None = None) -> Action:
        """Return the action of the tick at `now_ns`; `plan` is this tick's, if it came in time.

        The fallback rule: the plan of this tick; else what the last chunk has due; else hold; and
        stop once the observation behind it all is older than `action_timeout`. Actions due after
        that are not published either: a controller that was sent them would execute them.
        The rule of a stream that is stale goes before all of it.
        """
        chunk = self.current
        self.hands.counted = None
        return replace(self._acted(now_ns, plan, chunk), chunk=chunk)

    def _acted(self, now_ns: int, plan: Plan | None, chunk: Chunk | None) -> Action:
        order = self.guard.order(now_ns, self.settings.observation_timeout_ns)
        if order == Rung.HOLD and chunk is not None:
            self._ended_ns = chunk.stamp_ns
        left = 0 if chunk is None else chunk.stamp_ns + self.settings.action_timeout_ns - now_ns
        if chunk is None or left < 0 or order == Rung.STOP:
            return self.hands.end(self.settings)
        rest = chunk.rest(now_ns)[:1 + left // chunk.step_ns]
        if not len(rest) or self._broken_off(chunk):
            return (self.hands.brake(self.settings) if self.hands.velocity
                    else self.hold(now_ns, told=True))
        rung = plan.rung if plan is not None and plan.chunk is chunk else Rung.CHUNK
        return self.hands.follow(chunk, rest, rung, self.settings, now_ns)

    def hold(self, now_ns: int | None = None, told: bool = False) -> Action:
        """Return the action that keeps the robot where it is measured to be, once it is braked.

        Velocities are brought to zero within the limits. Actions without a measured
        state of their name keep the value that is due; without either, nothing is published.
        `now_ns` tells a state too old to hold at, and what is due; without it the newest state and
        the last planned value stand, and no position is braked. `told` is for ticks, which send
        it. Several actions [K, A] are the way to rest, `rest_step_s` apart.
        """
        return self.hands.hold(self.current, self.settings, now_ns, told)

    @property
    def rest_step_s(self) -> float:
        """Time between the actions of a `hold` that are sent one by one [s]."""
        return 1 / (self.settings.control_rate if self.hands.velocity else self.spec.rate)

    def reset(self) -> None:
        """Forget observations, latents and the chunk, as at a new episode or a clock jump."""
        self._epoch += 1  # first: a plan in flight must not bring back what is forgotten here
        self._buffer.clear()
        self.cache.clear()
        self.tiling.clear()
        self.warm.clear()
        self.arrivals.clear()
        self.guard.clear()
        self.hands.forget()
        self._chunk = self._estimate = self._planned_ns = self._ended_ns = None
        self.newest_frame = None
