"""What moves the robot: due actions within the limits, holds, and the way to rest."""

from __future__ import annotations

import numpy as np

from diffusion_policy_rt.errors import SpecError
from diffusion_policy_rt.runtime.acting import Action, Places, braking, resting
from diffusion_policy_rt.runtime.chunk import Chunk
from diffusion_policy_rt.runtime.course import Course
from diffusion_policy_rt.runtime.limits import Clips, Limits
from diffusion_policy_rt.runtime.motion import Motion
from diffusion_policy_rt.runtime.observation import State
from diffusion_policy_rt.runtime.settings import LoopSettings
from diffusion_policy_rt.runtime.steering import MOST
from diffusion_policy_rt.runtime.trace import Rung
from diffusion_policy_rt.spec import PolicySpec


class Hands:
    """Knows what is measured and what was sent; one thread measures, another acts."""

    def __init__(self, spec: PolicySpec, limits: Limits, velocity: bool) -> None:
        self.limits, self.velocity = limits, velocity
        self._step_s = 1 / spec.rate
        self.motion, self.clips = Motion(limits, self._step_s), Clips()
        if velocity and self.motion.bounds:
            raise SpecError('limits.*.max_acceleration bounds positions; the acceleration of a '
                            'velocity is bounded by limits.*.max_velocity')
        self.state: State | None = None
        """The newest that was measured."""
        self._spec, self._places = spec, Places(spec)
        self._asks_state = limits.rated or self.motion.bounds
        """Whether more than positions is bounded; else a chunk alone says what is sent."""
        self._followed: tuple[Chunk, Course] | None = None
        """The last chunk that was followed, and its way within the limits."""
        self.counted: np.ndarray | None = None
        """Where the robot was measured to be [A] when the tick's action was bounded by it, or held
        it there; None where nothing measured counts."""
        self._sent: np.ndarray | None = None
        """The last velocity that was to be published [A]; stays None for other actions."""

    def measure(self, state: State, settings: LoopSettings) -> None:
        """Take in a measured state."""
        self.state = state
        if self.motion.bounds:
            self.motion.measure(state.stamp_ns, self._places.of(state), settings.period_ns)

    def follow(self, chunk: Chunk, first: int, end: int, rung: Rung, settings: LoopSettings,
               now_ns: int) -> Action:
        """Return the actions `first`, which is due now, to `end` of a chunk within the limits."""
        course = self._course_of(chunk)
        if self._asks_state:
            at = self.at(settings)
            self.counted = None if self.velocity else at
            begin = self._begin(at, settings)
            if self.motion.bounds or not course.keeps_rate(first, *begin):
                rows = self.motion.follow(
                    course.rest(first, end, *begin), course.due[first:end], chunk.before(now_ns),
                    at, now_ns, 1 / settings.control_rate)
                self.clips.note(bool((rows[0] != course.due[first]).any()))
                return self._sending(self._contained(Action(rung, rows)))
        self.clips.note(course.moved[first])
        return self._sending(Action(rung, course.placed[first:end]))

    def _course_of(self, chunk: Chunk) -> Course:
        if self._followed is None or self._followed[0] is not chunk:
            self._followed = chunk, self.limits.course(chunk.actions, self._step_s)
        return self._followed[1]

    def end(self, settings: LoopSettings) -> Action:
        """Return what is sent where there is nothing to follow: velocities are braked first."""
        return Action.stop(self._spec) if self._sent is None else self.brake(settings)

    def brake(self, settings: LoopSettings) -> Action:
        """Return what brings velocities to zero within the limits, and then nothing."""
        slower = braking(self._sent, self.limits.rate / settings.control_rate)
        if slower is None:
            return Action.stop(self._spec)
        return self._sending(Action(Rung.HOLD, slower[None]))

    def hold(self, chunk: Chunk | None, settings: LoopSettings, now_ns: int | None = None,
             told: bool = False) -> Action:
        """Return what keeps the robot where it is measured to be; see `PolicyLoop.hold`.

        `told` is for ticks, which send it.
        """
        if self.velocity:
            return self._come_to_rest(settings)
        at = self.at(settings, now_ns)
        self.counted = at if told else self.counted
        values = resting(at, chunk, now_ns)
        if not np.isfinite(values).all():
            return Action.stop(self._spec)
        held = self.limits.course(values[None], self._step_s).rest(
            0, 1, *self._begin(self.at(settings), settings))
        if now_ns is not None:
            held = self.motion.brake(held[0], now_ns, 1 / settings.control_rate, told)
        return self._contained(Action(Rung.HOLD, held))

    def _come_to_rest(self, settings: LoopSettings) -> Action:
        """Return all velocities [K, A] on the way to zero, a control period apart."""
        reach, rows = self.limits.rate / settings.control_rate, list[np.ndarray]()
        sent = self._sent
        while sent is not None and sent.any() and len(rows) < MOST:
            rows.append(sent := np.clip(0.0, sent - reach, sent + reach))
        if not rows or rows[-1].any():
            rows.append(np.zeros(len(reach)))
        self._sent = rows[-1]
        return Action(Rung.HOLD, np.array(rows))

    def forget(self) -> None:
        """Forget what was measured, and begin at rest."""
        self.motion.clear()
        self.state = self._followed = None

    def _contained(self, action: Action) -> Action:
        """Return the action, or STOP and count it where it is out of the limits of position.

        That is so where the robot is measured further out than their rate can bring back.
        """
        beyond = self.limits.beyond(action.actions)
        if not beyond.any():
            return action
        self.clips.outside += 1
        self.clips.which = [name for name, out in zip(self._spec.action.names, beyond) if out]
        return Action.stop(self._spec)

    def _sending(self, action: Action) -> Action:
        if self.velocity and len(action.actions):
            self._sent = action.actions[0]
        return action

    def _begin(self, at: np.ndarray, settings: LoopSettings) -> tuple[np.ndarray, float]:
        """Return what bounds the next action, [A], and the time that it has for its change [s].

        It is where the robot is measured to be, or the velocity that was sent last.
        """
        if not self.velocity:
            return at, self._step_s
        sent = np.zeros(len(self._spec.action)) if self._sent is None else self._sent
        return sent, 1 / settings.control_rate

    def at(self, settings: LoopSettings, now_ns: int | None = None) -> np.ndarray:
        """Return the newest measured state by action name, [A]; NaN where there is none."""
        state = self.state
        old = (state is not None and now_ns is not None
               and now_ns - state.arrival_ns > settings.action_timeout_ns)
        return self._places.of(None if old or self.velocity else state)
