"""The records that a driver makes of its ticks, one per control period."""

from __future__ import annotations

from collections.abc import Callable

from diffusion_policy_rt.runtime.clock import Deadline
from diffusion_policy_rt.runtime.observation import NotReady
from diffusion_policy_rt.runtime.plan import Plan
from diffusion_policy_rt.runtime.trace import Rung, Tick

NAN = float('nan')


class Records:
    """Numbers the ticks and tells each of them."""

    def __init__(self, tell: Callable[[Tick], None]) -> None:
        self._tell = tell
        self._count = 0

    def tick(self, rung: Rung, deadline: Deadline, left: int, age: float, plan: Plan | None,
             spent: Plan | NotReady | None) -> None:
        """Tell a tick whose action left at `left` [ns], from images that were `age` old [s].

        `spent` is the plan whose cost falls to it, also when it came late.
        """
        fresh = plan is not None and rung in (Rung.FRESH, Rung.FEWER, Rung.CACHED)
        cost = spent if isinstance(spent, Plan) else None
        self._add(Tick(
            tick=self._count,
            stamp_to_publish_s=(left - plan.chunk.stamp_ns) / 1e9 if plan and fresh else NAN,
            plan_s=cost.plan_ns / 1e9 if cost else NAN,
            encode_s=cost.encode_ns / 1e9 if cost else NAN,
            denoise_s=cost.denoise_ns / 1e9 if cost else NAN,
            slack_s=deadline.left_ns(left) / 1e9,
            steps=plan.chunk.steps if plan and fresh else 0,
            rung=rung,
            cache_hits=cost.cache_hits if cost else 0,
            observation_age_s=age,
            camera_skew_s=cost.skew_ns / 1e9 if cost else NAN,
            missed=deadline.missed(left)))

    def skip(self, deadline: Deadline, now: int) -> None:
        """Tell a period that passed without a tick."""
        self._add(Tick(self._count, NAN, NAN, NAN, NAN, deadline.left_ns(now) / 1e9, 0, Rung.STOP,
                       0, NAN, NAN, True))

    def _add(self, tick: Tick) -> None:
        self._count += 1
        self._tell(tick)
