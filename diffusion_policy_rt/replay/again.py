"""A recorded run of the policy itself, done again: plan by plan, each with the fate that it had.

    recorded    T  plan of 8 calls | cut short after 3 ..............| T + 2 periods: the whole
    again       T  3 calls cost nothing, the 4th lasts until then ...|

So the same ticks follow the same chunks, and their actions have the same bits.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from diffusion_policy_rt.errors import DataError, EngineError
from diffusion_policy_rt.replay.events import of_one_clock
from diffusion_policy_rt.replay.mapping import Sources
from diffusion_policy_rt.replay.virtual import Costs
from diffusion_policy_rt.ros.bag import Bag
from diffusion_policy_rt.runtime.acting import Action
from diffusion_policy_rt.runtime.asking import PUBLISH_MARGIN_NS
from diffusion_policy_rt.runtime.hands import Hands
from diffusion_policy_rt.runtime.loop import PolicyLoop
from diffusion_policy_rt.runtime.plan import Fate, Plan
from diffusion_policy_rt.runtime.settings import LoopSettings

FateAt = Callable[[int], Fate | None]
"""The recorded fate of the plan that the tick at .. [ns] asked for; None where it asked none."""
MeasuredAt = Callable[[int], np.ndarray | None]
"""What the action of the recorded tick at .. [ns] counts from, [A]; None where it is not told."""


def read_info(bag: Bag, sources: Sources) -> dict[str, Any]:
    """Return what the bag's `~/policy_info` tells; nothing where it has none."""
    told = next(bag.messages(sources.info), None) if sources.info else None
    return dict(json.loads(told.data.data)) if told else {}


def recorded_settings(info: Mapping[str, Any]) -> LoopSettings | None:
    """Return the settings of the recorded node; None where they are not told."""
    names = {field.name for field in dataclasses.fields(LoopSettings)}
    told = info.get('settings') or {}
    return LoopSettings(**told) if set(told) == names else None


def recorded_parameters(bag: Bag, sources: Sources) -> dict[str, Any]:
    """Return the recorded node's parameters, by name, that were not as they are by default."""
    return dict(read_info(bag, sources).get('parameters') or {})


def run_again(bag: Bag, sources: Sources, digest: str, seed: int) -> LoopSettings:
    """Return the settings of the run to be done again; DataError tells why it cannot be."""
    info = read_info(bag, sources)
    first = next(bag.messages(sources.events), None) if sources.events else None
    if not info or first is None:
        raise DataError(f'{bag.path} holds no ~/events and ~/policy_info of a policy node')
    if info.get('digest') != digest:
        raise DataError(f'{bag.path} was recorded with another policy: {info.get("folder")}')
    settings = recorded_settings(info)
    if settings is None:
        raise DataError(f'{bag.path} does not tell the settings of its node: it is of an earlier '
                        'version')
    if info['seed'] != seed:
        raise DataError(f'{bag.path} was recorded with --seed {info["seed"]}')
    if not of_one_clock(first):
        raise DataError(f'{bag.path} was recorded by another clock than its node\'s')
    return settings


class HandsAgain(Hands):
    """Hands that count from where the recorded ones did, whatever the recorder heard by then."""

    recorded: np.ndarray | None = None
    """What was measured for the tick, by action name [A]; None where it is not told."""

    def at(self, settings: LoopSettings, now_ns: int | None = None) -> np.ndarray:
        """Return the recorded measured state [A], or that of this run."""
        return super().at(settings, now_ns) if self.recorded is None else self.recorded


class LoopAgain(PolicyLoop):
    """A loop that plans when the recorded one did, with as many network calls.

    `fate_at` is set before the first tick; without it the loop decides for itself. So is
    `measured_at`, without which limits and holds count from what has come by then.
    """

    fate_at: FateAt | None = None
    measured_at: MeasuredAt | None = None
    hands: HandsAgain
    make_hands = HandsAgain

    def act(self, now_ns: int, plan: Plan | None = None) -> Action:
        """Return the action of the tick at `now_ns`, counted from what was recorded of it."""
        self.hands.recorded = self.measured_at(now_ns) if self.measured_at else None
        try:
            return super().act(now_ns, plan)
        finally:
            self.hands.recorded = None

    def wants_plan(self, now_ns: int) -> bool:
        """Whether the recorded tick at `now_ns` asked for a plan."""
        if self.fate_at is None:
            return super().wants_plan(now_ns)
        self._fate = self.fate_at(now_ns)
        return self._fate is not None

    def choose(self, allowed: tuple[int, ...], left_ns: float) -> int:
        """Return the recorded number; EngineError where the recorded engine failed."""
        if self.fate_at is None:
            return super().choose(allowed, left_ns)
        assert self._fate is not None
        if self._fate.steps not in allowed:
            raise EngineError('no plan was made here when this was recorded')
        return self._fate.steps

    def costs(self, now_ns: int) -> Costs:
        """Return what makes the plan that was just asked for end when it did in the recording."""
        fate, deadline = self._fate, self.settings.deadline_ns
        if fate is None or not fate.steps:
            return Costs(0, 0, 0)
        took = fate.used_ns - now_ns
        if fate.prompt:  # a tick that was held up itself waited for longer than it may
            return Costs(0, max(0, min(took, deadline - PUBLISH_MARGIN_NS)), 0)
        return Costs(0, max(took, deadline), 0, fate.followed)
