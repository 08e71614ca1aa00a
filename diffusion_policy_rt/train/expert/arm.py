"""Demonstrations of the arm by its scripted expert, which is shaken while it works.

What is recorded is what the expert wants, what is carried out is that and noise, so that the data
show how to come back (Laskey et al. 2017, DART). So small a noise makes no grasp fail: what to do
then is shown by episodes that begin after a slip, or where a policy drove first (Ross et al. 2011,
DAgger).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffusion_policy_rt.engines.bundle import read_bundle
from diffusion_policy_rt.errors import SpecError
from diffusion_policy_rt.replay.evaluate import Evaluation, make_controller
from diffusion_policy_rt.sim.arm import Arm
from diffusion_policy_rt.sim.arm_expert import Expert
from diffusion_policy_rt.sim.tasks import ARM
from diffusion_policy_rt.train.expert.collect import WEIGHTS
from diffusion_policy_rt.train.expert.slips import slip

_MEMORY = 0.7
"""How much of the noise stays from step to step."""
_AFTER = 4
"""Control steps that are shown after the task is done."""
_LED = 40
"""Control steps before which the expert takes over from whoever led."""


@dataclass(frozen=True)
class ArmDemonstration:
    """One episode: T rows, each before its action."""

    seed: int
    front: np.ndarray
    """uint8 [T, 96, 96, 3] RGB."""
    wrist: np.ndarray
    """Likewise."""
    state: np.ndarray
    """float32 [T, 8], in the order of the task's joints."""
    action: np.ndarray
    """Likewise: their targets."""
    keypoint_front: np.ndarray
    """float32 [T, 3, 2]: where can, grip and goal are, in 0..1 of the image."""
    keypoint_wrist: np.ndarray
    """Likewise."""
    progress: float
    """The best."""

    @property
    def success(self) -> bool:
        """Whether the can was put onto the goal."""
        return self.progress > ARM.success

    def streams(self) -> dict[str, np.ndarray]:
        """Return the rows by the name that the data set gives them.

        `success` [T] is 1 in the row whose action put the can onto the goal.
        """
        success = np.zeros(len(self.action), np.uint8)
        success[-_AFTER] = self.success
        return {'success': success, **{
            name: value for name, value in dataclasses.asdict(self).items()
            if isinstance(value, np.ndarray)}}


@dataclass(frozen=True)
class ArmCollection:
    """What is collected, and how."""

    noise: float = 0.01
    """Standard deviation of the noise on each angle [rad]."""
    seed: int = 1
    """Of the noise; episode i starts from a seed of its own."""
    starts: str = 'published'
    """`published` as the evaluation starts, or `anywhere`: amid the task, after a slip."""
    policy: str | None = None
    """The bundle that drives before the expert takes over."""

    def about(self) -> dict[str, Any]:
        """Return what the episodes depend on but their seeds, as JSON data."""
        driver = self.policy and read_bundle(self.policy).files[WEIGHTS]['sha256']
        return {'task': ARM.name, **dataclasses.asdict(self), 'policy': driver}

    def collector(self) -> ArmCollector:
        """Return what runs the episodes, in the process that calls."""
        return ArmCollector(self)

    def read(self, parts: dict[str, Any]) -> ArmDemonstration:
        """Return the demonstration that was kept as these arrays."""
        return ArmDemonstration(**parts)


class ArmCollector:
    """One process's simulator and expert."""

    def __init__(self, what: ArmCollection) -> None:
        if what.policy and not ARM.serves(read_bundle(what.policy).spec):
            raise SpecError(f'{what.policy} is no policy of the arm; it cannot lead there')
        self.what, self.arm = what, Arm()
        self.expert = Expert(self.arm)
        self.driver = make_controller(Evaluation(what.policy))[0] if what.policy else None

    def episode(self, seed: int) -> ArmDemonstration:
        """Run the episode of `seed` until a little after its end."""
        arm, rng = self.arm, np.random.default_rng((self.what.seed, seed))
        arm.reset(seed)
        self._lead(seed, rng)
        rows: list[dict[str, np.ndarray]] = []
        noise, done, best = np.zeros(len(ARM.joints)), 0, 0.0
        while (done or len(rows) < ARM.max_steps) and done < _AFTER:
            wanted = self.expert.target()
            rows.append(self._row(wanted))
            noise[:-1] = _MEMORY * noise[:-1] + (1 - _MEMORY**2)**0.5 * rng.normal(
                0, self.what.noise, len(noise) - 1)
            arm.step(wanted + noise)
            best = max(best, arm.progress())
            done += best > ARM.success
        columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
        return ArmDemonstration(seed=seed, progress=best, **columns)

    def _lead(self, seed: int, rng: np.random.Generator) -> None:
        """Bring the arm, unseen, to where this demonstration begins."""
        if self.driver is not None:
            self.driver.begin(seed)
            for step in range(rng.integers(_LED)):
                self.arm.step(self.driver.target(step, self.arm))
        if self.what.starts == 'anywhere':
            for _ in range(rng.integers(_LED)):
                self.arm.step(self.expert.target())
            slip(self.arm, self.expert, rng)

    def _row(self, wanted: np.ndarray) -> dict[str, np.ndarray]:
        points = {f'keypoint_{camera}': self.arm.keypoints(camera).astype(np.float32)
                  for camera in ARM.cameras}
        return {**{camera: ARM.look(self.arm, camera) for camera in ARM.cameras}, **points,
                'state': self.arm.state.astype(np.float32), 'action': wanted.astype(np.float32)}
