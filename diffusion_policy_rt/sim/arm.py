"""A simulated arm with seven joints, a gripper and two cameras: put a can onto a green disc.

A Franka Panda in MuJoCo. Its motors hold the positions they are told, as behind ros2_control's
position interface; both fingers follow one value.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from diffusion_policy_rt.errors import DprtError
from diffusion_policy_rt.sim.arm_scene import (
    CAN, GOAL, TIMESTEP, compile_scene, load_mujoco)
from diffusion_policy_rt.sim.tasks import ARM

KEYPOINTS = 3
"""Points that a camera's encoder is taught: the can, the grip, the goal."""
HOME = np.array([0.0, 0.0, 0.0, -2.0, 0.0, 2.0, 0.785, 0.04])
_ZERO = np.array([0, 0, 0, 0, 0, 1.57, 0.785, 0])
"""The manufacturer's angle at which the model has zero."""
_PLACED, _LIFTED = 0.04, 0.05
_OPEN = 0.03
"""A finger further out than this holds nothing [m]."""
_MJ_STEPS = round(1 / (ARM.rate * ARM.substeps * TIMESTEP))


class Arm:
    """One simulated arm. Angles are the manufacturer's [rad], lengths in m."""

    def __init__(self) -> None:
        self._mujoco = load_mujoco()
        self.model = compile_scene()
        self.data = self._mujoco.MjData(self.model)
        joints = [self.model.joint(f'robot:panda0_joint{i}') for i in range(1, 8)]
        joints.append(self.model.joint('robot:panda0_finger_joint1'))
        self.qpos = np.array([joint.qposadr[0] for joint in joints])
        self.dofs = np.array([joint.dofadr[0] for joint in joints])
        self._other_finger = self.model.joint('robot:panda0_finger_joint2').qposadr[0]
        self._can = self.model.body('can').id
        self._draw: dict[tuple[int, int], Any] = {}
        self._show = _coarse(self._mujoco, self.model)
        self.seed = -1

    def reset(self, seed: int) -> None:
        """Start the episode of `seed`: the can and the arm's bearing are drawn from it."""
        rng = np.random.default_rng(seed)
        self._mujoco.mj_resetData(self.model, self.data)
        start = HOME + np.append(rng.normal(0, 0.05, 7), 0.0)
        self.data.qpos[self.qpos] = start - _ZERO
        self.data.qpos[self._other_finger] = start[-1]
        self.data.qpos[:3] = rng.uniform(0.4, 0.6), rng.uniform(-0.2, 0.1), CAN
        self._hold(start)
        self._mujoco.mj_forward(self.model, self.data)
        self.seed = seed
        self._furthest = float(np.linalg.norm(self.can[:2] - GOAL))

    @property
    def state(self) -> np.ndarray:
        """Where the joints are, float64 [8], in the order of ARM.joints."""
        return self.data.qpos[self.qpos] + _ZERO

    @property
    def velocity(self) -> np.ndarray:
        """How fast the joints move, float64 [8] [rad/s, m/s]."""
        return self.data.qvel[self.dofs].copy()

    @property
    def can(self) -> np.ndarray:
        """Middle of the can, float64 [3] [m]."""
        return self.data.xpos[self._can].copy()

    @property
    def grip(self) -> np.ndarray:
        """The point between the finger tips, float64 [3] [m]."""
        return self.data.site('grip').xpos.copy()

    def progress(self) -> float:
        """Return how far the task is done: 1 when the can lies on the goal, let go."""
        can, away = self.can, float(np.linalg.norm(self.can[:2] - GOAL))
        if away < _PLACED and can[2] < 1.2 * CAN and self.state[-1] > _OPEN:
            return 1.0
        if can[2] > _LIFTED:
            return 0.5 + 0.4 * max(0.0, 1 - away / self._furthest)
        return 0.25 * max(0.0, 1 - float(np.linalg.norm(can - self.grip)) / 0.4)

    def substep(self, target: np.ndarray) -> None:
        """Move for a hundredth of a second towards `target` [8], kept within the limits."""
        self._hold(np.clip(target, ARM.low, ARM.high))
        self._mujoco.mj_step(self.model, self.data, _MJ_STEPS)

    def step(self, target: np.ndarray) -> None:
        """Move for one control step towards `target` [8]."""
        for _ in range(ARM.substeps):
            self.substep(target)

    def look(self, camera: str, width: int = 96, height: int = 96) -> np.ndarray:
        """Draw what a camera sees, uint8 [height, width, 3] RGB."""
        if (width, height) not in self._draw:
            self._draw[width, height] = _renderer(self._mujoco, self.model, width, height)
        renderer = self._draw[width, height]
        renderer.update_scene(self.data, camera, self._show)
        return renderer.render()

    def close(self) -> None:
        """Give back the GL contexts, in the thread that drew."""
        while self._draw:
            self._draw.popitem()[1].close()

    def keypoints(self, camera: str) -> np.ndarray:
        """Return where can, grip and goal are in a square image, [3, 2] in 0..1, x to the right.

        What is out of sight is at the image's edge.
        """
        points = np.array([self.can, self.grip, [*GOAL, 0.0]])
        seen = (points - self.data.camera(camera).xpos) @ self.data.camera(camera).xmat.reshape(
            3, 3)
        half = np.tan(np.radians(self.model.camera(camera).fovy[0]) / 2)
        flat = seen[:, :2] * [1, -1] / (np.maximum(-seen[:, 2:], 1e-3) * half)
        return np.clip(0.5 + 0.5 * flat, 0, 1)

    def _hold(self, target: np.ndarray) -> None:
        self.data.ctrl[:7] = (target - _ZERO)[:7]
        self.data.ctrl[7:] = target[-1]


def _coarse(mujoco: Any, model: Any) -> Any:
    """Return what is drawn of the scene: the coarse meshes, not the fine ones."""
    mesh = mujoco.mjtGeom.mjGEOM_MESH
    fine = (model.geom_type == mesh) & (model.geom_group == 0)
    model.geom_group[fine] = 5
    show = mujoco.MjvOption()
    show.geomgroup[:] = [1, 1, 1, 1, 0, 0]
    return show


def _renderer(mujoco: Any, model: Any, width: int, height: int) -> Any:
    try:
        made = mujoco.Renderer(model, height, width)
    except Exception as error:  # each of the GL back ends raises its own
        raise DprtError('the arm\'s cameras need OpenGL, if in software: apt install libegl1 '
                        f'libgl1-mesa-dri, or set MUJOCO_GL=osmesa ({error})') from error
    for flag in ('SHADOW', 'REFLECTION'):  # most of the time of drawing in software
        made.scene.flags[getattr(mujoco.mjtRndFlag, f'mjRND_{flag}')] = False
    return made
