"""What a policy takes and gives: names, shapes, dtypes, units, bounds. Frozen; JSON in and out."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from diffusion_policy_rt.errors import SpecError

T = TypeVar('T')


KINDS: Mapping[str, tuple[type, ...]] = {
    'int': (int,), 'float': (int, float), 'str': (str,), 'bool': (bool,)}
"""What JSON may hold in a field of this annotation."""

SAMPLERS = ('ddim', 'ddim_unclipped', 'ancestral', 'renoise', 'point')


def _falling(levels: Sequence[float]) -> bool:
    return all(math.inf > a > b for a, b in zip(levels, (*levels[1:], 0.0)))


def _tuple(values: Sequence[Any], kind: type) -> tuple[Any, ...]:
    if isinstance(values, str):
        raise TypeError(f'expected a list, found {values!r}')
    return tuple(kind(value) for value in values)


def build(cls: type[T], data: Mapping[str, Any], where: str) -> T:
    """Build the dataclass `cls` from JSON, refusing keys that it does not know or lacks."""
    if not isinstance(data, Mapping):
        raise SpecError(f'{where}: expected an object, found {type(data).__name__}')
    known = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(data) - set(known))
    if unknown:
        raise SpecError(f'{where}: unknown key {unknown[0]!r}; known keys: {", ".join(known)}')
    missing = [n for n, f in known.items() if n not in data and f.default is dataclasses.MISSING
               and f.default_factory is dataclasses.MISSING]
    if missing:
        raise SpecError(f'{where}: key {missing[0]!r} is missing')
    for name, value in data.items():
        kinds = KINDS.get(str(known[name].type))
        # a bool is an int to Python, not to us
        if kinds and (not isinstance(value, kinds)
                      or isinstance(value, bool) and bool not in kinds):
            raise SpecError(f'{where}: {name} must be of type {known[name].type}, found {value!r}')
    try:
        return cls(**data)
    except (TypeError, ValueError) as error:
        raise SpecError(f'{where}: {error}') from error


@dataclass(frozen=True)
class CameraSpec:
    """One camera: how its frame becomes the network's input."""

    name: str
    height: int
    """Rows of the image after resizing [px]."""
    width: int
    """Columns of the image after resizing [px]."""
    latent_dim: int
    """Length of the latent that the encoder makes of one frame."""
    crop: tuple[int, int] | None = None
    """Rows and columns cut from the middle after resizing [px]; None keeps all."""
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    """Subtracted from each RGB channel scaled to [0, 1]."""
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    """Divides each RGB channel after the mean is subtracted."""

    def __post_init__(self) -> None:
        if self.crop is not None:
            object.__setattr__(self, 'crop', _tuple(self.crop, int))
        for name in ('mean', 'std'):
            object.__setattr__(self, name, _tuple(getattr(self, name), float))
        full, size = (self.height, self.width), self.input_size
        if len(size) != 2 or any(not 0 < cut <= whole for cut, whole in zip(size, full)):
            raise SpecError(f'camera {self.name}: crop {self.crop} does not fit into '
                            f'{self.height}x{self.width}')
        if self.latent_dim < 1:
            raise SpecError(f'camera {self.name}: latent_dim {self.latent_dim} must be above zero')
        finite = all(math.isfinite(v) for v in (*self.mean, *self.std))
        if len(self.mean) != 3 or len(self.std) != 3 or not finite or min(self.std) <= 0:
            raise SpecError(f'camera {self.name}: mean and std need 3 finite values, std above '
                            'zero')

    @property
    def input_size(self) -> tuple[int, int]:
        """Rows and columns of the network's input [px]."""
        return self.crop or (self.height, self.width)

    @property
    def crop_corner(self) -> tuple[int, int]:
        """First row and column of the crop [px]; halves to even, as the published code cuts."""
        rows, columns = self.input_size
        return round((self.height - rows) / 2), round((self.width - columns) / 2)


@dataclass(frozen=True)
class VectorSpec:
    """A named vector: a unit and bounds per value, and the affine map to the network's range."""

    names: tuple[str, ...]
    units: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    offset: tuple[float, ...]
    """Subtracted before scaling, in units."""
    scale: tuple[float, ...]
    """Divides after the offset is subtracted, in units per normalised unit."""

    def __post_init__(self) -> None:
        for name in ('names', 'units'):
            object.__setattr__(self, name, _tuple(getattr(self, name), str))
        for name in ('low', 'high', 'offset', 'scale'):
            object.__setattr__(self, name, _tuple(getattr(self, name), float))
        lengths = {f.name: len(getattr(self, f.name)) for f in dataclasses.fields(VectorSpec)}
        if len(set(lengths.values())) != 1 or not self.names:
            raise SpecError(f'vector {self.names}: lengths differ: {lengths}')
        if len(set(self.names)) != len(self.names):
            raise SpecError(f'vector {self.names}: a name stands twice')
        if not all(math.isfinite(v) for v in (*self.offset, *self.scale)) or min(self.scale) <= 0:
            raise SpecError(f'vector {self.names}: offset must be finite, scale above zero')
        if any(not lo < hi for lo, hi in zip(self.low, self.high)):
            raise SpecError(f'vector {self.names}: low must lie below high')

    def __len__(self) -> int:
        return len(self.names)

    def normalise(self, values: np.ndarray) -> np.ndarray:
        """Map [..., D] in units to the network's range."""
        return (values - np.asarray(self.offset)) / np.asarray(self.scale)

    def denormalise(self, values: np.ndarray) -> np.ndarray:
        """Map [..., D] from the network's range to units: the inverse of `normalise`."""
        return values * np.asarray(self.scale) + np.asarray(self.offset)

    def validate(self, values: np.ndarray) -> None:
        """Raise SpecError unless `values` is a finite [D] vector."""
        if values.shape != (len(self),):
            raise SpecError(f'expected {len(self)} values {self.names}, '
                            f'found shape {values.shape}')
        bad = [name for name, value in zip(self.names, values) if not math.isfinite(value)]
        if bad:
            raise SpecError(f'{bad[0]} is not finite; check the driver that publishes it')

    def example(self) -> np.ndarray:
        """Return a valid vector, float32 [D]: the offset, within the bounds."""
        return np.clip(self.offset, self.low, self.high).astype(np.float32)


@dataclass(frozen=True)
class ActionSpec(VectorSpec):
    """An action vector; with reference `state` the network's actions count from the state."""

    reference: str = 'absolute'
    """`absolute`, or `state`: counted from the newest observed state of the same names."""
    stride: float = 0.0
    """How far an action lies from the one before it in the data, 99th percentile, Euclidean in
    the network's range; 0 where it is not known."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.stride < math.inf:
            raise SpecError(f'action stride {self.stride:g} must not be negative or infinite')
        if self.reference not in ('absolute', 'state'):
            raise SpecError(f'action reference {self.reference!r}: use absolute or state')


@dataclass(frozen=True)
class Preconditioning:
    """How the raw network output becomes a denoised estimate (`runtime/precond.py`)."""

    kind: str
    """`edm` (Karras et al. 2022, table 1), `ddpm` (epsilon prediction, Ho et al. 2020) or `flow`
    (rectified flow, Liu et al. 2022)."""
    sigma_data: float
    """Standard deviation of the normalised actions; 1 for `ddpm`."""
    levels: tuple[float, ...] = ()
    """`ddpm`: the noise level sigma of each training step, rising."""
    stop_time: bool = False
    """Whether the network is also told the level that the step goes to (Kim et al. 2024)."""
    predicts: str = 'noise'
    """`ddpm`: what the network's output is, `noise` or the clean `sample`."""

    def __post_init__(self) -> None:
        object.__setattr__(self, 'levels', _tuple(self.levels, float))
        if self.kind not in ('edm', 'ddpm', 'flow'):
            raise SpecError(f'preconditioning {self.kind!r}: use edm, ddpm or flow')
        if self.predicts not in ('noise', 'sample') or (
                self.predicts == 'sample' and self.kind != 'ddpm'):
            raise SpecError(f'preconditioning {self.kind}: predicts {self.predicts!r}; use noise, '
                            'or sample with ddpm')
        rising = all(a < b for a, b in zip((0.0, *self.levels), self.levels))
        if self.kind == 'ddpm' and not (
                rising and len(self.levels) > 1 and self.levels[-1] < math.inf):
            raise SpecError('preconditioning ddpm: levels must be a rising list of finite noise '
                            'levels above zero')
        if not 0 < self.sigma_data < math.inf:
            raise SpecError('preconditioning: sigma_data must be above zero and finite')


@dataclass(frozen=True)
class Schedule:
    """The noise levels that one sampling run visits; it ends at zero, which is not listed."""

    kind: str
    """`ddim` (deterministic, Song et al. 2021), `ddim_unclipped` (its noise estimate is that of
    before the clip, as diffusers has it), `ancestral` (Ho et al. 2020), `renoise` (fresh
    noise on the estimate, Song et al. 2023, alg. 1) or `point` (`ddim` from zeros, not noise)."""
    sigmas: tuple[float, ...]
    """Falling noise levels, one network call each."""
    noise_scale: float = 1.0
    """`ancestral`, `renoise`: factor of the fresh noise, 0..1; 1 is as published."""
    warm_sigmas: tuple[float, ...] = ()
    """Levels visited instead, no more of them, where the last chunk is known: it is noised to the
    first of them (warm start). Empty: the last chunk is not looked at."""

    def __post_init__(self) -> None:
        for name in ('sigmas', 'warm_sigmas'):
            object.__setattr__(self, name, _tuple(getattr(self, name), float))
        if self.kind not in SAMPLERS:
            raise SpecError(f'schedule kind {self.kind!r}: use one of {", ".join(SAMPLERS)}')
        if not self.sigmas or not all(map(_falling, (self.sigmas, self.warm_sigmas))):
            raise SpecError('schedule: sigmas must be positive, finite and falling')
        if len(self.warm_sigmas) > len(self.sigmas):
            raise SpecError(f'schedule: a warm start takes {len(self.warm_sigmas)} calls, more '
                            f'than the {len(self.sigmas)} from noise')
        if not 0 <= self.noise_scale <= 1:
            raise SpecError(f'schedule: noise_scale {self.noise_scale} must lie in 0..1')


@dataclass(frozen=True)
class PolicySpec:
    """Everything about a policy that its users must agree on."""

    name: str
    cameras: tuple[CameraSpec, ...]
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
        if not names or len(set(names)) != len(names):
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
        cameras, schedules = data.get('cameras', ()), data.get('schedules', {})
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
