"""The scene of the arm: the Franka Panda of gymnasium-robotics, a can and where it belongs.

The arm's bodies, joints, motors and meshes are those that the package ships (Kumar's `franka`,
Apache-2.0). Its coarse collision meshes are what is drawn: in software they cost a fifth of the
fine ones. A Panda weighs nothing to its motors, so gravity is taken off its bodies.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from diffusion_policy_rt.errors import DprtError

if sys.platform == 'linux':
    os.environ.setdefault('MUJOCO_GL', 'egl')  # before mujoco: no screen is needed

CAN = 0.02
"""Radius and half of the height of the can [m]."""
GOAL = (0.5, 0.22)
"""Middle of the goal on the table, x and y [m]."""
GOAL_RADIUS = 0.05
"""Radius of the drawn goal [m]."""
WRIST = [0.1763, 0.9069, 0.3757, 0.0730]
"""How the camera at the wrist is turned against the last link, a quaternion w, x, y, z."""
TIMESTEP = 0.002
"""Of the physics [s]."""
MODEL = 'envs/assets/kitchen_franka/franka_assets'
SCENE = f"""<mujoco model="arm">
  <include file="franka_assets/assets.xml"/>
  <option timestep="{TIMESTEP}" integrator="implicitfast"/>
  <visual><quality offsamples="0"/><headlight ambient=".3 .3 .3" diffuse=".35 .35 .35"/>
    <global offwidth="640" offheight="480"/></visual>
  <worldbody>
    <light pos="0.5 0 2" dir="0 0 -1" diffuse=".3 .3 .3" castshadow="false"/>
    <geom name="table" type="plane" size="1.5 1.5 .1" rgba=".82 .8 .76 1"/>
    <geom name="goal" type="cylinder" size="{GOAL_RADIUS} .001" pos="{GOAL[0]} {GOAL[1]} .001"
          rgba=".1 .6 .2 1" contype="0" conaffinity="0"/>
    <body name="can" pos=".5 0 {CAN}"><freejoint/>
      <geom type="cylinder" size="{CAN} {CAN}" mass=".05" rgba=".85 .1 .1 1"
            friction="1.5 .01 .0001" condim="4"/></body>
    <camera name="front" pos="1.05 0 .62" xyaxes="0 1 0 -.72 0 .69" fovy="45"/>
    <include file="franka_assets/chain.xml"/>
  </worldbody>
  <include file="franka_assets/actuator.xml"/>
</mujoco>
"""


def load_mujoco() -> Any:
    """Return the module mujoco; DprtError that tells how to install it."""
    if importlib.util.find_spec('mujoco') is None:
        raise DprtError('the arm needs MuJoCo: pip install "diffusion_policy_rt[arm]"')
    try:
        return importlib.import_module('mujoco')
    except Exception:  # of the GL library that is named or lacking; physics need none
        os.environ['MUJOCO_GL'] = 'disabled'
        return importlib.import_module('mujoco')


def compile_scene() -> Any:
    """Return the compiled scene, a mujoco.MjModel; DprtError where a package lacks."""
    mujoco, package = load_mujoco(), importlib.util.find_spec('gymnasium_robotics')
    if package is None or not package.submodule_search_locations:
        raise DprtError('the arm\'s model is in gymnasium-robotics: pip install '
                        '"diffusion_policy_rt[arm]"')
    folder = Path(next(iter(package.submodule_search_locations))) / MODEL
    with tempfile.TemporaryDirectory() as scratch:
        # the model's files name each other from the folder of the file that includes them
        (Path(scratch) / folder.name).symlink_to(folder)
        (Path(scratch) / 'scene.xml').write_text(SCENE)
        return _complete(mujoco.MjSpec.from_file(f'{scratch}/scene.xml')).compile()


def _complete(spec: Any) -> Any:
    for body in spec.bodies:
        if body.name.startswith('panda0'):
            body.gravcomp = 1
    # beside the hand, between the fingers' planes, looking at where they meet
    hand = spec.body('panda0_link7')
    hand.add_camera(name='wrist', pos=[0.06, -0.06, 0.06], quat=WRIST, fovy=70)
    hand.add_site(name='grip', pos=[0, 0, 0.245], group=5)
    for site in spec.sites:
        site.group = 5  # not drawn
    return spec
