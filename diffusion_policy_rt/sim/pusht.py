"""Push-T: the physics and the camera of gym-pusht, with the published start states.

A circular tool pushes a T-shaped block onto a drawn goal, in a square of 512 px. The score of an
episode is the maximum of clip(coverage / 0.95, 0, 1); success is coverage above 0.95.
"""

from __future__ import annotations

import os

import cv2
import numpy as np

os.environ.setdefault('SDL_VIDEODRIVER', 'dummy')
os.environ.setdefault('PYGAME_HIDE_SUPPORT_PROMPT', '1')

from gym_pusht.envs.pusht import PushTEnv  # noqa: E402  (after SDL is told to open no window)

from diffusion_policy_rt.sim.tasks import PUSHT  # noqa: E402

MAX_STEPS = PUSHT.max_steps
"""Control steps of an episode in the published protocol."""
SUCCESS = PUSHT.success
"""Coverage above which an episode is a success, and that counts as score 1."""


def start_state(seed: int) -> np.ndarray:
    """Return the published start of `seed`: tool x, y, block x, y [px], block angle [rad].

    Seeds 0..205 are the demonstrations' own; the published test seeds start at 100000.
    """
    rng = np.random.RandomState(seed)
    return np.array([rng.randint(50, 450), rng.randint(50, 450), rng.randint(100, 400),
                     rng.randint(100, 400), rng.randn() * 2 * np.pi - np.pi])


class PushT:
    """One simulated robot. Positions are in px of the 512-wide task."""

    def __init__(self) -> None:
        self._env = PushTEnv(obs_type='state', render_mode='rgb_array')
        self.seed = -1

    def reset(self, seed: int) -> None:
        """Start the episode of `seed`."""
        self.seed = seed
        self._env.reset(options={'reset_to_state': start_state(seed)})

    def place(self, tool: np.ndarray, block: np.ndarray) -> None:
        """Put the tool [2] and the block [3] (x, y [px], angle [rad]) exactly there, at rest."""
        env = self._env
        env._setup()
        env.agent.position = tuple(map(float, tool))
        env.block.angle = float(block[2])  # first: it turns about the centre of gravity
        env.block.position = tuple(map(float, block[:2]))
        for body in (env.agent, env.block):
            env.space.reindex_shapes_for_body(body)

    @property
    def tool(self) -> np.ndarray:
        """Position of the tool, float64 [2]: x, y."""
        return np.array(self._env.agent.position)

    @property
    def state(self) -> np.ndarray:
        """The joints are the tool's position, float64 [2]."""
        return self.tool

    @property
    def velocity(self) -> np.ndarray:
        """Velocity of the tool, float64 [2] [px/s]."""
        return np.array(self._env.agent.velocity)

    @property
    def block(self) -> np.ndarray:
        """Pose of the block, float64 [3]: x, y, angle [rad]."""
        return np.array([*self._env.block.position, self._env.block.angle])

    def coverage(self) -> float:
        """Return the share of the goal that the block covers."""
        return float(self._env._get_coverage())

    def progress(self) -> float:
        """Return the coverage: what the task is scored by."""
        return self.coverage()

    def close(self) -> None:
        """Close the environment."""
        self._env.close()

    def substep(self, target: np.ndarray) -> None:
        """Move for one physics step towards `target` [2], by the task's PD controller."""
        env, tool = self._env, self._env.agent
        (x, y), at, v = map(float, target), tool.position, tool.velocity  # floats: numpy is slow
        tool.velocity = (v[0] + (env.k_p * (x - at[0]) - env.k_v * v[0]) * env.dt,
                         v[1] + (env.k_p * (y - at[1]) - env.k_v * v[1]) * env.dt)
        env.space.step(env.dt)

    def step(self, target: np.ndarray) -> None:
        """Move for one control step towards `target` [2]."""
        for _ in range(PUSHT.substeps):
            self.substep(target)

    def look(self, camera: str, width: int, height: int) -> np.ndarray:
        """Draw what the only camera sees."""
        return self.render(width, height)

    def render(self, width: int = 96, height: int = 96) -> np.ndarray:
        """Draw the scene, uint8 [height, width, 3] RGB; the square fills the shorter side."""
        side = min(width, height)
        square = self._env._get_img(self._env._draw(), side, side)
        if width == height:
            return square
        left, top = (width - side) // 2, (height - side) // 2
        return cv2.copyMakeBorder(square, top, height - side - top, left, width - side - left,
                                  cv2.BORDER_CONSTANT, value=(255, 255, 255))
