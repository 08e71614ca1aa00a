"""Plan on examples until the engine is warm, and measure what each step count costs here."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np

from diffusion_policy_rt.errors import EngineError, SpecError
from diffusion_policy_rt.runtime.asking import PUBLISH_MARGIN_NS
from diffusion_policy_rt.runtime.frame import Frame
from diffusion_policy_rt.runtime.loop import Plan, PolicyLoop
from diffusion_policy_rt.runtime.trace import percentiles

COLD_PLANS, WARM_PLANS, BUDGET_S = 3, 30, 2.0
"""Plans per step count that are not measured and that are, and the time after which 3 suffice."""


def warm_up(loop: PolicyLoop) -> dict[int, dict[str, float | None]]:
    """Return the percentiles of the plan time [s] of each step count that the settings allow.

    The measured durations stay in `loop.latencies`, so that the first tick knows what fits.
    Raises EngineError when the engine does not plan on a valid example.
    """
    allowed, settings = loop.settings.allowed_steps(loop.spec), loop.settings
    loop.tiling.prove()
    try:
        for steps in allowed:
            _plans(loop, steps, COLD_PLANS)
        loop.latencies.clear()
        return {steps: percentiles(_plans(loop, steps, WARM_PLANS)) for steps in allowed}
    finally:
        loop.settings = settings
        loop.reset()


def check_deadline(loop: PolicyLoop, table: dict[int, dict[str, float | None]]) -> None:
    """Raise SpecError when not even the fewest steps that the settings allow meet the deadline.

    What misses it is measured once more, because a busy machine can spoil one measurement, and so
    is what was not allowed at the warm-up; the table is told.
    """
    settings = loop.settings
    fewest = settings.allowed_steps(loop.spec)[0]
    available = settings.deadline - PUBLISH_MARGIN_NS / 1e9
    if fewest not in table or (table[fewest]['p99'] or 0.0) > available:
        table[fewest] = percentiles(_plans(loop, fewest, WARM_PLANS))
        loop.settings = settings
        loop.reset()
    measured = table[fewest]['p99'] or 0.0
    if measured > available:
        raise SpecError(
            f'a plan of {fewest} steps takes {1e3 * measured:.1f} ms (p99) on this machine, more '
            f'than the deadline of {1e3 * loop.settings.deadline:.1f} ms leaves it; raise '
            'deadline (and lower control_rate), or take a smaller or distilled policy')


def _plans(loop: PolicyLoop, steps: int, count: int) -> list[float]:
    """Make up to `count` plans of `steps` network calls; return their durations [s]."""
    loop.settings = replace(loop.settings, min_steps=steps, max_steps=steps)
    end = time.perf_counter() + BUDGET_S
    durations: list[float] = []
    while len(durations) < count and (len(durations) < 3 or time.perf_counter() < end):
        durations.append(_plan(loop))
    return durations


def _plan(loop: PolicyLoop) -> float:
    spec = loop.spec
    stamp = (0 if loop.newest is None else loop.newest.stamp_ns) + spec.step_ns
    for camera in spec.cameras:
        # one image is not the next: the rules of the streams would call it frozen
        shade = 120 + stamp // spec.step_ns % 16
        grey = np.full((camera.height, camera.width, 3), shade, np.uint8)
        loop.observe_frame(Frame.of(camera.name, stamp, grey))
    loop.observe_state(stamp, stamp, spec.state.example())
    plan = loop.plan(stamp)
    if not isinstance(plan, Plan):
        raise EngineError(f'the engine does not plan on an example: {plan.reason}')
    return plan.plan_ns / 1e9
