"""The policy loop: observe, plan, act. No threads, no clock of its own, no ROS.

`observe_*` may be called from one thread, `plan` from another and `act` from a third: samples are
handed over through queues, the chunk and the newest state by one reference assignment each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np

from diffusion_policy_rt.runtime.acting import Action
from diffusion_policy_rt.runtime.arrivals import Arrivals
from diffusion_policy_rt.runtime.chunk import Chunk
from diffusion_policy_rt.runtime.clock import Clock
from diffusion_policy_rt.runtime.following import Following
from diffusion_policy_rt.runtime.frame import Frame
from diffusion_policy_rt.runtime.guard import StreamRule
from diffusion_policy_rt.runtime.hands import Hands
from diffusion_policy_rt.runtime.inference import Inference
from diffusion_policy_rt.runtime.limits import Limits
from diffusion_policy_rt.runtime.observation import ROBOT, NotReady, State
from diffusion_policy_rt.runtime.plan import Plan
from diffusion_policy_rt.runtime.ports import Engine
from diffusion_policy_rt.runtime.seams import Seams
from diffusion_policy_rt.runtime.settings import LoopSettings
from diffusion_policy_rt.spec import PolicySpec


class PolicyLoop(Inference):
    """One policy, from frames and states to actions: its inference, and what follows from it."""

    make_hands: type[Hands] = Hands
    """What moves the robot."""

    def __init__(self, spec: PolicySpec, engine: Engine, settings: LoopSettings, clock: Clock,
                 seed: int = 0, limits: Limits | None = None, velocity: bool = False,
                 rules: Mapping[str, StreamRule] | None = None) -> None:
        super().__init__(spec, engine, settings, clock, seed, rules)
        self.hands = self.make_hands(spec, limits or Limits.none(len(spec.action)), velocity)
        self.arrivals = Arrivals()
        self.seams = Seams(spec.action.scale)
        self.counts: Counter[str] = Counter()
        """How many plans met with each of `PLAN_FAULTS`."""
        self.newest_frame: Frame | None = None
        self._following = Following(spec, self.hands, self.guard)
        self._epoch = 0

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
        """Whether the last plan is used up; a robot that was halted plans nothing."""
        return not self.guard.halted and self._following.used_up(now_ns, self.settings)

    def plan(self, now_ns: int, budget_ns: int | None = None,
             offer: Callable[[Plan], None] | None = None) -> Plan | NotReady:
        """Plan for the tick at `now_ns`, within `budget_ns` where there is a deadline.

        The new chunk takes over by due time. A frame that is not fit to plan from is forgotten,
        and leaves the old chunk; so does a plan that is overtaken by `reset`. `offer` is given
        what there is after each network call but the last, for a tick that cannot wait longer.
        """
        epoch, following = self._epoch, self._following
        made = self.infer(now_ns, budget_ns, offer, following.current)
        if epoch != self._epoch:
            return NotReady('the plan was overtaken by a reset')
        self.guard.judge(made if isinstance(made, NotReady) else None)
        if isinstance(made, Plan):
            self.seams.note(following.planned, made.chunk, now_ns)
            following.take_over(made.chunk, now_ns)
        return made

    # -- act -----------------------------------------------------------------------------------

    @property
    def current(self) -> Chunk | None:
        """The chunk to follow; of two from one observation the one that was not cut short."""
        return self._following.current

    def adopt(self, plan: Plan) -> None:
        """Follow what a plan in flight has offered, until it is there itself."""
        self._following.adopt(plan.chunk)
        self.counts['cut_short'] += 1

    def act(self, now_ns: int, plan: Plan | None = None) -> Action:
        """Return the action of the tick at `now_ns`; `plan` is this tick's, if it came in time.

        The fallback rule: the plan of this tick; else what the last chunk has due; else hold; and
        stop once the observation behind it all is older than `action_timeout`. Actions due after
        that are not published either: a controller that was sent them would execute them.
        The rule of a stream that is stale goes before all of it.
        """
        return self._following.act(now_ns, plan, self.settings)

    def hold(self, now_ns: int | None = None) -> Action:
        """Return the action that keeps the robot where it is measured to be, once it is braked.

        Velocities are brought to zero within the limits. Actions without a measured
        state of their name keep the value that is due; without either, nothing is published.
        `now_ns` tells a state too old to hold at, and what is due; without it the newest state and
        the last planned value stand, and no position is braked. Several actions [K, A] are the way
        to rest, `rest_step_s` apart.
        """
        return self.hands.hold(self.current, self.settings, now_ns)

    @property
    def rest_step_s(self) -> float:
        """Time between the actions of a `hold` that are sent one by one [s]."""
        return 1 / (self.settings.control_rate if self.hands.velocity else self.spec.rate)

    def reset(self) -> None:
        """Forget observations, latents and the chunk, as at a new episode or a clock jump."""
        self._epoch += 1  # first: a plan in flight must not bring back what is forgotten here
        self.forget()
        self.arrivals.clear()
        self.guard.clear()
        self.hands.forget()
        self._following.forget()
        self.newest_frame = None
