"""Who shows the arm's task: the next joint positions from the scene's true state, by rules.

It has no memory, so that what it does is a function of what a policy can see:

    can not held    over it, down onto it, close
    can held        up, across, down
    can on the goal open, up
"""

from __future__ import annotations

import numpy as np

from diffusion_policy_rt.sim.arm import HOME, Arm
from diffusion_policy_rt.sim.arm_scene import CAN, GOAL

SHUT, OPEN = 0.0, 0.04
REACH = 0.07
"""How far ahead of the hand its target is at most [m]."""
CARRY = 0.14
"""Height at which the can is carried, and from which it is approached [m]."""
_DAMPING, _PULL, _ITERATIONS = 0.02, 0.1, 10
_DOWN = np.diag([1.0, -1.0, -1.0])
"""How the hand is turned: the fingers point down and close along y."""


class Expert:
    """Chooses targets for one arm."""

    def __init__(self, arm: Arm) -> None:
        self._arm, self._mujoco = arm, arm._mujoco
        self._data = self._mujoco.MjData(arm.model)
        self._site = arm.model.site('grip').id

    def target(self) -> np.ndarray:
        """Return the target of the next control step, float64 [8]."""
        where, finger = self._wish()
        step = where - self._arm.grip
        step *= min(1.0, REACH / max(1e-9, float(np.linalg.norm(step))))
        return np.append(self.reach(self._arm.grip + step), finger)

    def _wish(self) -> tuple[np.ndarray, float]:
        """Return where the grip should be [3] and the fingers' opening [m]."""
        can, grip, finger = self._arm.can, self._arm.grip, self._arm.state[-1]
        goal, over = np.array(GOAL), float(np.linalg.norm(can[:2] - GOAL))
        if over < 0.02 and can[2] < 1.3 * CAN:
            return (grip if finger < 0.03 else np.array([*grip[:2], CARRY])), OPEN
        if np.linalg.norm(can - grip) < 0.02 and finger < CAN + 0.003:
            return self._carry(can, grip, goal, over), SHUT
        beside = float(np.linalg.norm(grip[:2] - can[:2]))
        height = can[2] + min(CARRY - CAN, 5 * max(0.0, beside - 0.008))
        closing = beside < 0.012 and grip[2] < can[2] + 0.012
        return np.array([*can[:2], height]), SHUT if closing else OPEN

    @staticmethod
    def _carry(can: np.ndarray, grip: np.ndarray, goal: np.ndarray, over: float) -> np.ndarray:
        if over > 0.02:
            up = np.clip((grip[2] - 0.06) / 0.05, 0, 1)  # first up, then across
            return np.array([*(grip[:2] + up * (goal - can[:2])), CARRY])
        return np.array([*(grip[:2] + goal - can[:2]), CAN - 0.002])

    def reach(self, point: np.ndarray) -> np.ndarray:
        """Return joint angles [7] that bring the grip to `point` [3], the hand upright.

        Damped least squares (Buss 2004) from where the joints are; what the task leaves free
        draws them home.
        """
        arm, data, model = self._arm, self._data, self._arm.model
        zero = arm.state[:7] - arm.data.qpos[arm.qpos[:7]]
        data.qpos[:] = arm.data.qpos
        jacobian = np.zeros((6, model.nv))
        for _ in range(_ITERATIONS):
            self._mujoco.mj_kinematics(model, data)
            self._mujoco.mj_comPos(model, data)
            self._mujoco.mj_jacSite(model, data, jacobian[:3], jacobian[3:], self._site)
            task = jacobian[:, arm.dofs[:7]]
            back = task.T @ np.linalg.inv(task @ task.T + _DAMPING**2 * np.eye(6))
            home = _PULL * (HOME[:7] - zero - data.qpos[arm.qpos[:7]])
            move = back @ self._error(point) + home - back @ (task @ home)
            data.qpos[arm.qpos[:7]] += np.clip(move, -0.2, 0.2)
        return data.qpos[arm.qpos[:7]] + zero

    def _error(self, point: np.ndarray) -> np.ndarray:
        """Return how far the hand is off: translation [m] and rotation vector [rad], [6]."""
        turn = _DOWN @ self._data.site_xmat[self._site].reshape(3, 3).T
        axis = 0.5 * np.array([turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0],
                               turn[1, 0] - turn[0, 1]])
        return np.concatenate([point - self._data.site_xpos[self._site], axis])
