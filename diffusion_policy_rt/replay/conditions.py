"""How a bag is replayed, who is told of it meanwhile, and what a replay says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from diffusion_policy_rt.replay.action_parts import Part
from diffusion_policy_rt.replay.charge import Charge
from diffusion_policy_rt.replay.faults import Fault
from diffusion_policy_rt.ros.events import Event as NodeEvent
from diffusion_policy_rt.runtime.caches import CacheRules
from diffusion_policy_rt.runtime.frame import Frame
from diffusion_policy_rt.runtime.guard import StreamRule
from diffusion_policy_rt.runtime.limits import Limits
from diffusion_policy_rt.runtime.settings import LoopSettings
from diffusion_policy_rt.runtime.trace import Tick


@dataclass(frozen=True)
class Conditions:
    """How a bag is replayed."""

    settings: LoopSettings
    charge: Charge
    seed: int = 0
    faults: tuple[Fault, ...] = ()
    velocity: bool = False
    """Whether actions are velocities."""
    limits: Limits | None = None
    rules: Mapping[str, StreamRule] | None = None
    caches: CacheRules | None = None
    digest: str = ''
    """Of the policy: a recording of its own run is done again plan by plan."""
    parts: Mapping[str, Part] = field(default_factory=dict)
    """What the streams of recorded actions tell of them; nothing where there are none."""
    fated: bool = False
    """Whether the plans of such a run are ended when they ended there, instead of charged."""


@dataclass
class Watchers:
    """What is told while a replay runs; each may do nothing."""

    message: Callable[[int], None] = lambda ticks: None
    """A message of the bag was read; told the ticks so far."""
    frame: Callable[[Frame], None] = lambda frame: None
    """The policy took in a frame."""
    tick: Callable[[int, int, np.ndarray, Tick], None] = lambda due, now, actions, tick: None
    """A tick due at .. published [K, A] at ..."""
    event: Callable[[int, NodeEvent], None] = lambda now, event: None
    """At .. the node would have told this of its run."""


@dataclass
class Outcome:
    """What a replay says beside its trace."""

    sha256: str = ''
    counts: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    """Why there was no plan -> how many ticks."""
    restarts: int = 0
