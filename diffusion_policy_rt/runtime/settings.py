"""What can be tuned about the loop while it runs; checked as a set."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from diffusion_policy_rt.errors import SpecError
from diffusion_policy_rt.runtime.chunk import Joint
from diffusion_policy_rt.spec import ActionSpec, PolicySpec


@dataclass(frozen=True)
class LoopSettings:
    """Seconds and Hz. The loop swaps the whole set at once, between two ticks."""

    control_rate: float = 10.0
    """Ticks per second [Hz]."""
    deadline: float = 0.05
    """Time after a tick's scheduled instant by which its action must have left [s]."""
    min_steps: int = 1
    max_steps: int = 8
    observation_timeout: float = 0.5
    """Age above which an image or a state is not planned from [s]."""
    action_timeout: float = 2.0
    """Age of its observation above which a planned action is not executed [s]."""
    max_camera_skew: float = 0.1
    """Largest difference between the cameras' newest stamps [s]."""
    n_action_steps: int = 0
    """Actions executed from a chunk before the next plan, less those that latency took; 0 takes
    the bundle's."""
    replan_ticks: int = 0
    """Ticks from one plan to the next, in the place of `n_action_steps`; 0 goes by that."""
    seam_limit: float = 0.0
    """How far actions may jump where chunks meet, in the network's range; 0 takes the
    bundle's stride, and bounds nothing where that is not told."""
    blend_steps: int = 4
    """Actions over which what a jump has beyond that fades; 0 leaves jumps as they are."""

    def check(self, spec: PolicySpec) -> None:
        """Raise SpecError with the first contradiction in the set."""
        for name in ('control_rate', 'deadline', 'observation_timeout', 'action_timeout'):
            if not 0 < getattr(self, name) < math.inf:
                raise SpecError(f'{name} {getattr(self, name):g} must be above zero and finite')
        for name in ('max_camera_skew', 'n_action_steps', 'replan_ticks', 'seam_limit',
                     'blend_steps'):
            if not 0 <= getattr(self, name) < math.inf:
                raise SpecError(f'{name} {getattr(self, name):g} must not be negative or infinite')
        period = 1 / self.control_rate
        rules = [
            (self.deadline <= period * (1 + 1e-9),
             f'deadline {self.deadline:g} s is longer than the control period {period:g} s; '
             'lower deadline or control_rate'),
            (self.deadline < self.observation_timeout,
             f'deadline {self.deadline:g} s must be below observation_timeout '
             f'{self.observation_timeout:g} s'),
            (self.observation_timeout < self.action_timeout,
             f'observation_timeout {self.observation_timeout:g} s must be below action_timeout '
             f'{self.action_timeout:g} s'),
            (self.min_steps <= self.max_steps,
             f'min_steps {self.min_steps} is above max_steps {self.max_steps}'),
            (bool(self.allowed_steps(spec)),
             f'no step count in {self.min_steps}..{self.max_steps} is served; this policy serves '
             f'{list(spec.steps)}'),
            (self.n_action_steps <= spec.horizon - spec.n_obs + 1,
             f'n_action_steps {self.n_action_steps} is more than the '
             f'{spec.horizon - spec.n_obs + 1} actions a chunk has left'),
        ]
        for holds, reason in rules:
            if not holds:
                raise SpecError(reason)

    def allowed_steps(self, spec: PolicySpec) -> tuple[int, ...]:
        """Return the served step counts within the limits, rising."""
        return tuple(n for n in spec.steps if self.min_steps <= n <= self.max_steps)

    def joint(self, action: ActionSpec) -> Joint:
        """Return how seams of these actions are bounded."""
        return Joint(self.seam_limit or action.stride, self.blend_steps, np.array(action.scale))

    @cached_property
    def period_ns(self) -> int:
        """One control period [ns]."""
        return round(1e9 / self.control_rate)

    @cached_property
    def deadline_ns(self) -> int:
        """The deadline [ns]."""
        return round(self.deadline * 1e9)

    @cached_property
    def observation_timeout_ns(self) -> int:
        """The observation timeout [ns]."""
        return round(self.observation_timeout * 1e9)

    @cached_property
    def action_timeout_ns(self) -> int:
        """The action timeout [ns]."""
        return round(self.action_timeout * 1e9)
