"""What a replay costs beside the loop that it drives: both from one and the same run."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_policy_rt.engines.bundle import read_bundle
from diffusion_policy_rt.engines.load import load_engine
from diffusion_policy_rt.replay.action_parts import split
from diffusion_policy_rt.replay.charge import modelled
from diffusion_policy_rt.replay.conditions import Conditions
from diffusion_policy_rt.replay.drive import Replay
from diffusion_policy_rt.replay.mapping import Inputs, map_topics
from diffusion_policy_rt.replay.recorded import Matcher
from diffusion_policy_rt.replay.session import Wish, settings_for
from diffusion_policy_rt.replay.trail import Trail
from diffusion_policy_rt.ros.bag import Bag

OWN = ('observe_frame', 'observe_state', 'wants_plan', 'plan', 'act')
"""What a loop does for its ticks, whoever drives it."""


class Stopwatch:
    """Sums the time within the functions that it wraps; they must not call each other."""

    def __init__(self) -> None:
        self.spent_s = 0.0

    def of(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, watched."""
        def watched(*args: Any, **more: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*args, **more)
            finally:
                self.spent_s += time.perf_counter() - began

        return watched


def bench_replay(path: Path, policy: str, engine_name: str, steps: int,
                 repeats: int) -> list[dict[str, Any]]:
    """Return one row: medians over `repeats` replays, of which the first is not counted."""
    bundle = read_bundle(policy)
    engine = load_engine(bundle, engine_name)
    wish = Wish(path, path, steps=steps)
    settings, shares = settings_for(bundle.spec, wish), []
    for _ in range(1 + repeats):
        watch = Stopwatch()
        with Bag(path) as bag:
            span = (bag.span_ns[1] - bag.span_ns[0]) / 1e9
            sources = map_topics(Inputs.of(bundle.spec), bag.topics, {})
            how = Conditions(settings, modelled('0', steps),
                             parts=split(bag, sources, bundle.spec.action.names))
            trail = Trail(io.StringIO(), Matcher(
                settings.period_ns, [part.columns for part in how.parts.values()]))
            replay = Replay(bundle.spec, engine, sources, how, trail)
            for name in OWN:
                setattr(replay.loop, name, watch.of(getattr(replay.loop, name)))
            began = time.perf_counter()
            replay.run(bag)
            shares.append((watch.spent_s, time.perf_counter() - began))
    loop, whole = np.array(shares[1:]).T
    ticks, faster = max(trail.ticks, 1), span / float(np.median(whole))
    return [{'what': 'replay', 'policy': bundle.spec.name, 'engine': engine.name, 'steps': steps,
             'ticks': trail.ticks, 'loop_s': float(np.median(loop)) / ticks,
             'replay_s': float(np.median(whole)) / ticks,
             'ratio': float(np.median(whole / loop)), 'times_real': faster}]
