"""One closed-loop episode in the simulator, which stands still while the policy thinks.

`delay` charges latency all the same: at step i the policy sees what was there at step i - delay.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from diffusion_policy_rt.errors import EngineError
from diffusion_policy_rt.runtime.frame import Frame
from diffusion_policy_rt.runtime.loop import Action, PolicyLoop
from diffusion_policy_rt.runtime.observation import NotReady
from diffusion_policy_rt.sim.tasks import PUSHT, SimulatedRobot, Task


class Controller(Protocol):
    """Chooses the target of each control step."""

    @property
    def seams(self) -> Sequence[int]:
        """Control steps of this episode at which a chunk took over from another."""

    def begin(self, seed: int) -> None:
        """Start an episode."""

    def target(self, step: int, robot: SimulatedRobot) -> np.ndarray:
        """Return the target of control step `step`, [A] in the task's units."""


@dataclass
class Episode:
    """What happened."""

    seed: int
    coverages: list[float] = field(default_factory=list)
    """After each control step; of another task than Push-T its progress."""
    targets: list[np.ndarray] = field(default_factory=list)
    pictures: list[np.ndarray] = field(default_factory=list)
    seams: Sequence[int] = ()
    """Control steps whose target was the first of a chunk that took over from another."""
    task: Task = PUSHT

    @property
    def max_coverage(self) -> float:
        """The episode's score: the maximum of clip(coverage / 0.95, 0, 1)."""
        return self.task.score(max(self.coverages))

    @property
    def success(self) -> bool:
        """Whether the coverage exceeded 0.95."""
        return max(self.coverages) > self.task.success

    @property
    def jerk(self) -> float:
        """Root mean square of the targets' third difference [unit / s^3]."""
        third = np.diff(np.array(self.targets), n=3, axis=0) * self.task.rate**3
        return float(np.sqrt((third**2).sum(-1).mean())) if len(third) else 0.0

    def jumps(self) -> tuple[np.ndarray, np.ndarray]:
        """Return how far each target lies from the one before it [unit]: at seams, and within."""
        far = np.linalg.norm(np.diff(np.array(self.targets), axis=0), axis=-1)
        seam = np.isin(np.arange(1, len(self.targets)), self.seams)
        return far[seam], far[~seam]


class PolicyController:
    """Drives the robot with a policy, under a manual clock."""

    def __init__(self, loop: PolicyLoop, delay: int = 0, task: Task = PUSHT) -> None:
        self.loop, self._delay, self._seed, self._task = loop, delay, loop.seed, task
        self._columns = task.columns(loop.spec.state.names)
        self._seen: deque[tuple[int, dict[str, np.ndarray], np.ndarray]] = deque()
        self.seams: list[int] = []
        self._planned = False

    def begin(self, seed: int) -> None:
        """Forget the last episode; its noise depends on the policy's seed and the episode's."""
        self.loop.reset()
        self.loop.seed = self._seed * 1_000_003 + seed
        self._seen.clear()
        self.seams, self._planned = [], False

    def target(self, step: int, robot: SimulatedRobot) -> np.ndarray:
        """Observe, plan when a plan is due, and act; the robot stays put while there is no action.

        Raises EngineError when planning fails, because no episode may end on a failure unseen.
        """
        loop, now = self.loop, step * self.loop.spec.step_ns
        self._seen.append((now, self._look(robot), robot.state[self._columns]))
        if len(self._seen) > self._delay:
            stamp, pictures, state = self._seen.popleft()
            for camera, picture in pictures.items():
                loop.observe_frame(Frame.of(camera, stamp, picture))
            loop.observe_state(stamp, stamp, state)
            if loop.wants_plan(now):
                plan = loop.plan(now)
                if isinstance(plan, NotReady):
                    raise EngineError(f'episode {robot.seed}, step {step}: {plan.reason}')
                if self._planned:
                    self.seams.append(step)
                self._planned = True
        return first(loop.act(now), robot.state)

    def _look(self, robot: SimulatedRobot) -> dict[str, np.ndarray]:
        return {camera.name: self._task.look(robot, self._task.camera(camera.name))
                for camera in self.loop.spec.cameras}


def first(action: Action, otherwise: np.ndarray) -> np.ndarray:
    """Return the action due now, or `otherwise` where nothing is published."""
    return action.actions[0] if len(action.actions) else otherwise


class RandomController:
    """Draws a new target anywhere within the limits at each step: the floor of all policies."""

    seams: Sequence[int] = ()

    def __init__(self, task: Task = PUSHT) -> None:
        self._low, self._high = np.array(task.low), np.array(task.high)

    def begin(self, seed: int) -> None:
        """Draw this episode's targets from its seed."""
        self._rng = np.random.default_rng(seed)

    def target(self, step: int, robot: SimulatedRobot) -> np.ndarray:
        """Return a uniform target, [A] in the task's units."""
        return self._rng.uniform(self._low, self._high)


def run_episode(controller: Controller, robot: SimulatedRobot, seed: int, picture_every: int = 0,
                task: Task = PUSHT) -> Episode:
    """Run the episode of `seed`: the task's control steps, ended by success."""
    robot.reset(seed)
    controller.begin(seed)
    episode, side = Episode(seed, task=task), (192, 192)
    for step in range(task.max_steps):
        if picture_every and step % picture_every == 0:
            episode.pictures.append(robot.look(task.cameras[0], *side))
        target = controller.target(step, robot)
        robot.step(target)
        episode.targets.append(np.asarray(target, float))
        episode.coverages.append(robot.progress())
        if episode.success:
            break
    if picture_every:
        episode.pictures.append(robot.look(task.cameras[0], *side))
    episode.seams = tuple(controller.seams)
    return episode
