"""The simulated robots and what each is there for: the one place that tells them apart.

The nodes, the demonstrators, the evaluation and the demo take a robot by this port alone.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np

from diffusion_policy_rt.errors import DprtError, SpecError
from diffusion_policy_rt.spec import PolicySpec


class SimulatedRobot(Protocol):
    """One robot with its cameras, its surroundings, and an episode's start for each seed."""

    seed: int
    """Of the episode."""

    def reset(self, seed: int) -> None:
        """Start the episode of `seed`."""

    @property
    def state(self) -> np.ndarray:
        """Where the joints are, float64 [A], in the task's order and units."""

    @property
    def velocity(self) -> np.ndarray:
        """How fast they move, float64 [A] per second."""

    def substep(self, target: np.ndarray) -> None:
        """Move for 1 / (rate * substeps) seconds towards `target` [A]."""

    def step(self, target: np.ndarray) -> None:
        """Move for one control step towards `target` [A]."""

    def look(self, camera: str, width: int, height: int) -> np.ndarray:
        """Draw what a camera sees, uint8 [height, width, 3] RGB."""

    def progress(self) -> float:
        """Return how far the task is done, 0 to 1."""

    def close(self) -> None:
        """Give back what drawing holds, in the thread that drew."""


@dataclass(frozen=True)
class Task:
    """What is known of a simulated robot without starting it."""

    name: str
    robot: str
    """Module and class."""
    joints: tuple[str, ...]
    low: tuple[float, ...]
    """Least and largest target of each joint."""
    high: tuple[float, ...]
    cameras: tuple[str, ...]
    max_steps: int
    """Control steps of an episode."""
    extra: str
    """What of this package installs the simulator."""
    gripper: tuple[str, ...] = ()
    """Joints that a controller of their own may drive."""
    measure: str = 'progress'
    """What the task calls its progress."""
    success: float = 0.95
    """Progress above which an episode is a success, and that counts as score 1."""
    rate: int = 10
    """Control steps per second [Hz]."""
    substeps: int = 10
    """Steps of the physics' clock per control step."""
    image: tuple[int, int] = (96, 96)
    """Rows and columns of the cameras' pictures."""

    def make(self) -> SimulatedRobot:
        """Return a robot; DprtError where the simulator is not installed."""
        module, name = self.robot.split(':')
        try:
            made = cast(Callable[[], SimulatedRobot],
                        getattr(importlib.import_module(module), name))
        except ImportError as error:
            raise DprtError(f'the simulator of {self.name} is not installed ({error.name}): pip '
                            f'install "diffusion_policy_rt[{self.extra}]"') from error
        return made()

    def look(self, robot: SimulatedRobot, camera: str) -> np.ndarray:
        """Draw what a camera sees, at the task's size."""
        return robot.look(camera, self.image[1], self.image[0])

    def score(self, progress: float) -> float:
        """Return the score of an episode whose best progress this is: 1 for success."""
        return float(np.clip(progress / self.success, 0.0, 1.0))

    def serves(self, spec: PolicySpec) -> bool:
        """Whether a policy can drive the robot."""
        # one camera can only be meant, whatever its policy calls it
        seen = [camera.name for camera in spec.cameras]
        return (spec.rate == self.rate and spec.action.names == self.joints
                and set(spec.state.names) <= set(self.joints)
                and (set(seen) <= set(self.cameras) or len(seen) == len(self.cameras) == 1))

    def camera(self, name: str) -> str:
        """Return the robot's own name of a policy's camera."""
        return name if name in self.cameras else self.cameras[0]

    def columns(self, names: Sequence[str]) -> list[int]:
        """Return where these joints are in the robot's state."""
        return [self.joints.index(name) for name in names]


PUSHT = Task('pusht', 'diffusion_policy_rt.sim.pusht:PushT', ('x', 'y'), (0.0, 0.0),
             (512.0, 512.0), ('front',), 300, 'sim', measure='coverage')
ARM = Task('arm', 'diffusion_policy_rt.sim.arm:Arm',
           (*(f'panda_joint{i}' for i in range(1, 8)), 'panda_finger_joint1'),
           # the manufacturer's limits, but that joint 4 stays bent
           (-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0873, -2.8973, 0.0),
           (2.8973, 1.7628, 2.8973, -0.4, 2.8973, 3.6827, 2.8973, 0.04),
           ('front', 'wrist'), 120, 'arm', ('panda_finger_joint1',))
TASKS = {task.name: task for task in (PUSHT, ARM)}


def find_task(name: str) -> Task:
    """Return the task of this name; SpecError where there is none."""
    if name not in TASKS:
        raise SpecError(f'there is no simulated robot {name!r}; use one of {", ".join(TASKS)}')
    return TASKS[name]


def task_of(spec: PolicySpec, name: object) -> Task:
    """Return the task that a policy is for; SpecError, which tells the policy's `name`."""
    for task in TASKS.values():
        if task.serves(spec):
            return task
    known = '; '.join(f'{task.name}: cameras {", ".join(task.cameras)}, actions '
                      f'{", ".join(task.joints)}, {task.rate} Hz' for task in TASKS.values())
    raise SpecError(f'{name} is a policy of no simulated robot ({known}); only those can be '
                    'evaluated in closed loop')
