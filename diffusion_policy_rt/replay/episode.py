"""One closed-loop episode in the simulator, which stands still while the policy thinks.

`delay` charges latency all the same: at step i the policy sees what was there at step i - delay.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from diffusion_policy_rt.errors import EngineError
from diffusion_policy_rt.runtime.frame import Frame
from diffusion_policy_rt.runtime.loop import Action, PolicyLoop
from diffusion_policy_rt.runtime.observation import NotReady
from diffusion_policy_rt.sim.pusht import MAX_STEPS, RATE, SUCCESS, PushT, score


class Controller(Protocol):
    """Chooses the target of each control step."""

    @property
    def seams(self) -> Sequence[int]:
        """Control steps of this episode at which a chunk took over from another."""

    def begin(self, seed: int) -> None:
        """Start an episode."""

    def target(self, step: int, robot: PushT) -> np.ndarray:
        """Return the target of control step `step`, [2] px."""


@dataclass
class Episode:
    """What happened."""

    seed: int
    coverages: list[float] = field(default_factory=list)
    targets: list[np.ndarray] = field(default_factory=list)
    pictures: list[np.ndarray] = field(default_factory=list)
    seams: Sequence[int] = ()
    """Control steps whose target was the first of a chunk that took over from another."""

    @property
    def max_coverage(self) -> float:
        """The episode's score: the maximum of clip(coverage / 0.95, 0, 1)."""
        return score(max(self.coverages))

    @property
    def success(self) -> bool:
        """Whether the coverage exceeded 0.95."""
        return max(self.coverages) > SUCCESS

    @property
    def jerk(self) -> float:
        """Root mean square of the targets' third difference [px / s^3]."""
        third = np.diff(np.array(self.targets), n=3, axis=0) * RATE**3
        return float(np.sqrt((third**2).sum(-1).mean())) if len(third) else 0.0


    def jumps(self) -> tuple[np.ndarray, np.ndarray]:
        """Return how far each target lies from the one before it [px]: at seams, and within."""
        far = np.linalg.norm(np.diff(np.array(self.targets), axis=0), axis=-1)
        seam = np.isin(np.arange(1, len(self.targets)), self.seams)
        return far[seam], far[~seam]


class PolicyController:
    """Drives the robot with a policy, under a manual clock."""

    def __init__(self, loop: PolicyLoop, delay: int = 0) -> None:
        self.loop, self._delay, self._seed = loop, delay, loop.seed
        self._seen: deque[tuple[int, np.ndarray, np.ndarray]] = deque()
        self.seams: list[int] = []
        self._planned = False

    def begin(self, seed: int) -> None:
        """Forget the last episode; its noise depends on the policy's seed and the episode's."""
        self.loop.reset()
        self.loop.seed = self._seed * 1_000_003 + seed
        self._seen.clear()
        self.seams, self._planned = [], False

    def target(self, step: int, robot: PushT) -> np.ndarray:
        """Observe, plan when a plan is due, and act; the tool stays put while there is no action.

        Raises EngineError when planning fails, because no episode may end on a failure unseen.
        """
        loop, now = self.loop, step * self.loop.spec.step_ns
        self._seen.append((now, robot.render(), robot.tool))
        if len(self._seen) > self._delay:
            stamp, picture, tool = self._seen.popleft()
            loop.observe_frame(Frame.of(loop.spec.cameras[0].name, stamp, picture))
            loop.observe_state(stamp, stamp, tool)
            if loop.wants_plan(now):
                plan = loop.plan(now)
                if isinstance(plan, NotReady):
                    raise EngineError(f'episode {robot.seed}, step {step}: {plan.reason}')
                if self._planned:
                    self.seams.append(step)
                self._planned = True
        return first(loop.act(now), robot.tool)


def first(action: Action, otherwise: np.ndarray) -> np.ndarray:
    """Return the action due now, or `otherwise` where nothing is published."""
    return action.actions[0] if len(action.actions) else otherwise


class RandomController:
    """Draws a new target anywhere in the square at each step: the floor of all policies."""

    seams: Sequence[int] = ()

    def begin(self, seed: int) -> None:
        """Draw this episode's targets from its seed."""
        self._rng = np.random.default_rng(seed)

    def target(self, step: int, robot: PushT) -> np.ndarray:
        """Return a uniform target, [2] px."""
        return self._rng.uniform(0, 512, 2)


def run_episode(controller: Controller, robot: PushT, seed: int, picture_every: int = 0,
                watch: Callable[[int], None] | None = None) -> Episode:
    """Run the episode of `seed`: at most 300 control steps, ended by success."""
    robot.reset(seed)
    controller.begin(seed)
    episode = Episode(seed)
    for step in range(MAX_STEPS):
        if picture_every and step % picture_every == 0:
            episode.pictures.append(robot.render(192, 192))
        target = controller.target(step, robot)
        robot.step(target)
        episode.targets.append(np.asarray(target, float))
        episode.coverages.append(robot.coverage())
        if episode.success:
            break
    if picture_every:
        episode.pictures.append(robot.render(192, 192))
    episode.seams = tuple(controller.seams)
    return episode
