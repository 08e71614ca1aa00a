"""A policy: what it sees, what it gives, and how it is sampled."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from diffusion_policy_rt.errors import SpecError
from diffusion_policy_rt.spec.camera import CameraSpec
from diffusion_policy_rt.spec.parse import build
from diffusion_policy_rt.spec.sampling import Preconditioning, Schedule
from diffusion_policy_rt.spec.vector import ActionSpec, VectorSpec


@dataclass(frozen=True)
class PolicySpec:
    """Everything about a policy that its users must agree on."""

    name: str
    cameras: tuple[CameraSpec, ...]
    """None for a policy that observes the state alone."""
    state: VectorSpec
    action: ActionSpec
    n_obs: int
    """Frames of each camera, and states, that one plan looks at."""
    horizon: int
    """Actions in a chunk; action `n_obs - 1` is due at the observation's instant."""
    n_action_steps: int
    """Actions executed from a chunk before the next plan is due."""
    rate: float
    """Actions and observations per second that the policy was trained on [Hz]."""
    precond: Preconditioning
    schedules: Mapping[int, Schedule] = field(default_factory=dict)
    """Number of network calls -> the schedule that uses so many."""
    clip: float | None = 1.0
    """Bound of the denoised estimate in normalised units; None leaves it free."""
    prefix: int = 0
    """Committed actions that a plan can be told (`runtime/prefix.py`); 0 for none."""

    def __post_init__(self) -> None:
        names = [camera.name for camera in self.cameras]
        if len(set(names)) != len(names):
            raise SpecError(f'policy {self.name}: cameras need distinct names, found {names}')
        if not 1 <= self.n_obs <= self.horizon:
            raise SpecError(f'policy {self.name}: n_obs {self.n_obs} must lie in 1..horizon')
        if not 1 <= self.n_action_steps <= self.horizon - self.n_obs + 1:
            raise SpecError(f'policy {self.name}: n_action_steps {self.n_action_steps} must lie '
                            f'in 1..{self.horizon - self.n_obs + 1} (horizon - n_obs + 1)')
        if not 0 <= self.prefix <= self.horizon - self.n_obs:
            raise SpecError(f'policy {self.name}: prefix {self.prefix} must lie in '
                            f'0..{self.horizon - self.n_obs} (horizon - n_obs)')
        if not 0 < self.rate < math.inf:
            raise SpecError(f'policy {self.name}: rate must be above zero')
        if self.clip is not None and not 0 < self.clip < math.inf:
            raise SpecError(f'policy {self.name}: clip {self.clip} must be above zero and finite')
        if not self.schedules or any(len(s.sigmas) != n for n, s in self.schedules.items()):
            raise SpecError(f'policy {self.name}: each schedule must have as many levels as its '
                            'key')
        unknown = set(self.action.names) - set(self.state.names)
        if self.action.reference == 'state' and unknown:
            raise SpecError(f'policy {self.name}: actions {self.action.names} relative to the '
                            f'state need states of the same names, found {self.state.names}')

    @property
    def step_ns(self) -> int:
        """Time between two actions of a chunk [ns]."""
        return round(1e9 / self.rate)

    @property
    def steps(self) -> tuple[int, ...]:
        """Step counts served, rising."""
        return tuple(sorted(self.schedules))

    @property
    def observed_dim(self) -> int:
        """Length of what the condition says of the observation: n_obs x (latents, state)."""
        return self.n_obs * (sum(c.latent_dim for c in self.cameras) + len(self.state))

    @property
    def cond_dim(self) -> int:
        """Length of the condition vector: the observation, then the committed actions."""
        return self.observed_dim + self.prefix * (len(self.action) + 1)

    def camera(self, name: str) -> CameraSpec:
        """Return the camera called `name`; SpecError lists the others."""
        for camera in self.cameras:
            if camera.name == name:
                return camera
        raise SpecError(f'no camera {name!r}; this policy has {[c.name for c in self.cameras]}')

    def schedule(self, steps: int) -> Schedule:
        """Return the schedule of `steps` network calls; SpecError lists the others."""
        if steps not in self.schedules:
            raise SpecError(f'this policy serves {list(self.steps)} steps, not {steps}')
        return self.schedules[steps]

    def _reference(self, state: np.ndarray) -> np.ndarray:
        if self.action.reference == 'absolute':
            return np.zeros(len(self.action))
        return np.asarray(state, float)[[self.state.names.index(n) for n in self.action.names]]

    def encode_actions(self, actions: np.ndarray, state: np.ndarray) -> np.ndarray:
        """Normalise actions [H, A] in units, given the newest observed state [S] in units."""
        return self.action.normalise(actions - self._reference(state))

    def decode_actions(self, actions: np.ndarray, state: np.ndarray) -> np.ndarray:
        """Undo `encode_actions` and keep the result within the bounds; float32 [H, A] in units."""
        values = self.action.denormalise(actions) + self._reference(state)
        return np.clip(values, self.action.low, self.action.high).astype(np.float32)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data; `from_json` inverts it exactly."""
        data = dataclasses.asdict(self)
        data['schedules'] = {str(n): dataclasses.asdict(self.schedules[n]) for n in self.steps}
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> PolicySpec:
        """Build a spec from `to_json`'s data; SpecError names the first thing that is wrong."""
        if not isinstance(data, Mapping):
            raise SpecError(f'policy: expected an object, found {type(data).__name__}')
        data = dict(data)
        cameras, schedules = data.get('cameras'), data.get('schedules', {})
        if not isinstance(cameras, (list, tuple)):
            raise SpecError(f'cameras: expected a list, found {cameras!r}')
        if not isinstance(schedules, Mapping):
            raise SpecError(f'schedules: expected an object, found {schedules!r}')
        data['cameras'] = tuple(build(CameraSpec, camera, f'cameras[{i}]')
                                for i, camera in enumerate(cameras))
        parts = {'state': VectorSpec, 'action': ActionSpec, 'precond': Preconditioning}
        for key, part in parts.items():
            data[key] = build(part, data.get(key, {}), key)
        if not all(str(n).isdecimal() for n in schedules):
            raise SpecError(f'schedules: keys must be step counts, found {list(schedules)}')
        data['schedules'] = {int(n): build(Schedule, s, f'schedules.{n}')
                             for n, s in schedules.items()}
        return build(cls, data, 'policy')
