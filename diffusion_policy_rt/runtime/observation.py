"""Streams of stamped samples, and the observation they make at one instant.

The instant of an observation is the stamp of its newest frame, or without cameras that of its
newest state. A policy trained at `rate` with
`n_obs` 2 looks at each stream at two instants, one period apart:

    frames (30 Hz)   .  .  .  A  .  .  B        A, B: nearest to instant - period, instant
    states (100 Hz)  ..........a.........b      a, b: likewise
                               |         |
                    instant - period   instant
"""

from __future__ import annotations

import bisect
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from diffusion_policy_rt.runtime.frame import Frame
from diffusion_policy_rt.spec import PolicySpec

T = TypeVar('T')
ROBOT = ''
"""The stream of robot states, beside those that are named like their cameras."""


class Stream(Generic[T]):
    """The newest samples of one stream in order of their stamps, bounded in number."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._stamps: list[int] = []
        self._samples: list[T] = []

    def __len__(self) -> int:
        return len(self._stamps)

    def push(self, stamp_ns: int, sample: T) -> bool:
        """Take in a sample; a stamp already held is a duplicate and is not taken (False)."""
        at = bisect.bisect_left(self._stamps, stamp_ns)
        if at < len(self._stamps) and self._stamps[at] == stamp_ns:
            return False
        self._stamps.insert(at, stamp_ns)
        self._samples.insert(at, sample)
        if len(self._stamps) > self._capacity:
            del self._stamps[0], self._samples[0]
        return True

    @property
    def newest_ns(self) -> int:
        """Stamp of the newest sample [ns]."""
        return self._stamps[-1]

    def nearest(self, instant_ns: int) -> T:
        """Return the sample whose stamp is nearest; the older of two equally near."""
        after = bisect.bisect_left(self._stamps, instant_ns)
        choices = [i for i in (after - 1, after) if 0 <= i < len(self._stamps)]
        return self._samples[min(choices, key=lambda i: abs(self._stamps[i] - instant_ns))]

    def discard(self, stamp_ns: int) -> None:
        """Drop the sample of this stamp, if it is there."""
        if stamp_ns in self._stamps:
            at = self._stamps.index(stamp_ns)
            del self._stamps[at], self._samples[at]

    def drop_after(self, instant_ns: int) -> bool:
        """Drop the samples stamped later than `instant_ns`; return whether there were any."""
        after = bisect.bisect_right(self._stamps, instant_ns)
        found = after < len(self._stamps)
        del self._stamps[after:], self._samples[after:]
        return found

    def clear(self) -> None:
        """Forget all samples."""
        self._stamps.clear()
        self._samples.clear()


class State(NamedTuple):
    """One measured robot state."""

    stamp_ns: int
    arrival_ns: int
    values: np.ndarray
    """float64 [S] in units."""


@dataclass(frozen=True)
class Observation:
    """What one plan looks at."""

    stamp_ns: int
    """Stamp of the newest frame, or without cameras of the newest state: the instant [ns]."""
    frames: Mapping[str, tuple[Frame, ...]]
    """Per camera `n_obs` frames, oldest first."""
    states: np.ndarray
    """float64 [n_obs, S] in units, oldest first."""
    skew_ns: int
    """Largest difference between the stamps of the cameras' newest frames [ns]."""


class NotReady(NamedTuple):
    """Why there is no observation."""

    reason: str
    source: str | None = None
    """The stream that is to blame, where one is: a camera's name, or `ROBOT`."""
    kind: str = ''
    """`missing`, `stale`, `future`, `skewed`, `black`, `frozen`, `resized` or `damaged`; without a
    stream `not_finite` or `raised`, or '' for what is not counted."""


class ObservationBuffer:
    """Collects frames and states, and makes observations of them.

    Capacities follow from the spec: `samples_per_period` bounds how much faster than the policy's
    rate a stream may be while its older instants can still be found. One thread may let samples
    `arrive` while another one does all else.
    """

    def __init__(self, spec: PolicySpec, samples_per_period: int = 16) -> None:
        capacity = spec.n_obs * samples_per_period
        self._spec = spec
        self._frames: dict[str, Stream[Frame]] = {c.name: Stream(capacity) for c in spec.cameras}
        self._states: Stream[State] = Stream(capacity * 8)
        # no more than the streams keep: while no plan looks at them images must not pile up
        self._arrived: dict[str, deque[Frame | State]] = {
            ROBOT: deque(maxlen=capacity * 8),
            **{c.name: deque(maxlen=capacity) for c in spec.cameras}}

    def arrive(self, sample: Frame | State) -> None:
        """Keep a sample until it is collected."""
        self._arrived[sample.camera if isinstance(sample, Frame) else ROBOT].append(sample)

    def collect(self) -> None:
        """Take in what has arrived."""
        for waiting in self._arrived.values():
            while waiting:
                sample = waiting.popleft()
                if isinstance(sample, Frame):
                    self.push_frame(sample)
                else:
                    self.push_state(sample)

    def push_frame(self, frame: Frame) -> bool:
        """Take in a frame; False for a duplicate."""
        return self._frames[frame.camera].push(frame.stamp_ns, frame)

    def push_state(self, state: State) -> bool:
        """Take in a state; False for a duplicate."""
        return self._states.push(state.stamp_ns, state)

    def discard(self, frame: Frame) -> None:
        """Drop a frame that turned out to be unfit; an older one may stand in for it."""
        self._frames[frame.camera].discard(frame.stamp_ns)

    @property
    def newest(self) -> dict[str, int]:
        """The newest stamp of each stream that has one, `ROBOT` among them [ns]."""
        streams: dict[str, Stream[Any]] = {**self._frames, ROBOT: self._states}
        return {name: stream.newest_ns for name, stream in streams.items() if len(stream)}

    @property
    def newest_state(self) -> State | None:
        """The newest measured state, if there is one."""
        return self._states.nearest(self._states.newest_ns) if len(self._states) else None

    @property
    def newest_ns(self) -> int | None:
        """Stamp of the newest frame of any camera [ns]."""
        return max((s.newest_ns for s in self._frames.values() if len(s)), default=None)

    def observe(self, now_ns: int, timeout_ns: int, max_skew_ns: int) -> Observation | NotReady:
        """Make the newest observation.

        Every stream must have a sample whose stamp and whose arrival are at most `timeout_ns` old,
        and the cameras' newest frames must lie within `max_skew_ns`. Before `n_obs` instants have
        been seen the oldest sample stands for the earlier ones, as in training.

        A stamp more than `timeout_ns` ahead of now is dropped and reported once: it would stand as
        the newest for ever.
        """
        for name, frames in self._frames.items():
            if frames.drop_after(now_ns + timeout_ns):
                return NotReady(f'an image from camera {name} was stamped in the future; '
                                'synchronise the clocks', name, 'future')
            if not len(frames):
                return NotReady(f'no image from camera {name} yet', name, 'missing')
            newest = frames.nearest(frames.newest_ns)
            if now_ns - min(newest.stamp_ns, newest.arrival_ns) > timeout_ns:
                return _too_old(f'image from camera {name}', name, newest, timeout_ns)
        if self._states.drop_after(now_ns + timeout_ns):
            return NotReady('a robot state was stamped in the future; synchronise the clocks',
                            ROBOT, 'future')
        state = self.newest_state
        if state is None:
            return NotReady('no robot state yet', ROBOT, 'missing')
        if now_ns - min(state.stamp_ns, state.arrival_ns) > timeout_ns:
            return _too_old('robot state', ROBOT, state, timeout_ns)
        stamps = {name: frames.newest_ns for name, frames in self._frames.items()} or {
            ROBOT: state.stamp_ns}
        oldest, newest_ns = min(stamps, key=lambda name: stamps[name]), max(stamps.values())
        skew = newest_ns - stamps[oldest]
        if skew > max_skew_ns:
            return NotReady(f'the cameras are {skew / 1e9:.3f} s apart, {oldest} behind', oldest,
                            'skewed')
        return self._gather(newest_ns, skew)

    def _gather(self, stamp_ns: int, skew_ns: int) -> Observation:
        step, n_obs = self._spec.step_ns, self._spec.n_obs
        instants = [stamp_ns - k * step for k in range(n_obs - 1, -1, -1)]
        frames = {name: tuple(stream.nearest(instant) for instant in instants)
                  for name, stream in self._frames.items()}
        states = np.stack([self._states.nearest(instant).values for instant in instants])
        return Observation(stamp_ns, frames, states, skew_ns)

    def clear(self) -> None:
        """Forget everything."""
        for waiting in self._arrived.values():
            waiting.clear()
        for stream in self._frames.values():
            stream.clear()
        self._states.clear()


def _too_old(what: str, source: str, newest: Frame | State, timeout_ns: int) -> NotReady:
    cure = ('; it was stamped long before it arrived: synchronise the clocks'
            if newest.arrival_ns - newest.stamp_ns > timeout_ns else '')
    return NotReady(f'the newest {what} is too old{cure}', source, 'stale')


def observed(spec: PolicySpec, latents: Mapping[str, list[np.ndarray]],
             states: np.ndarray) -> np.ndarray:
    """Join latents {camera: n_obs x [L]} and states [n_obs, S] in units: the condition's head.

    float32 [observed_dim]; per instant, oldest first: the cameras in the spec's order, then the
    normalised state.
    """
    normalised = spec.state.normalise(states)
    rows = [np.concatenate([*(latents[c.name][k] for c in spec.cameras), normalised[k]])
            for k in range(spec.n_obs)]
    return np.concatenate(rows).astype(np.float32)
