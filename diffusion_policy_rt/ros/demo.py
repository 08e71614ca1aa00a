"""The demo: two node processes, their life cycle, and a recorder beside them."""

from __future__ import annotations

import time
from pathlib import Path

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float64, Float64MultiArray, String
from tqdm import tqdm
from trajectory_msgs.msg import JointTrajectory

from diffusion_policy_rt.engines.bundle import read_bundle
from diffusion_policy_rt.errors import DprtError
from diffusion_policy_rt.ros.bag import BagWriter
from diffusion_policy_rt.ros.processes import NodeProcess, change_state
from diffusion_policy_rt.ros.recorder import Recorder, Topic
from diffusion_policy_rt.share import find
from diffusion_policy_rt.sim.tasks import Task, task_of
from diffusion_policy_rt.spec import PolicySpec

def topics(task: Task, spec: PolicySpec) -> list[Topic]:
    """Return what is recorded of a robot and its policy."""
    return [
        *(Topic(f'/camera/{camera.name}/image_raw', Image, reliable=False)
          for camera in spec.cameras),
        Topic('/joint_states', JointState, reliable=False),
        Topic('/policy/action', JointTrajectory),
        *([Topic('/policy/gripper_action', Float64MultiArray)] if task.gripper else []),
        Topic('/policy/timing', Float64MultiArray),
        Topic('/policy/events', String),
        Topic('/policy/policy_info', String, latched=True),
        Topic('/diagnostics', DiagnosticArray),
        Topic(f'/{task.name}/{task.measure}', Float64),
        Topic(f'/{task.name}/episode', String),
    ]


class Demo:
    """Runs the policy and the robot it is for for a while, and records both into `out/bag`."""

    def __init__(self, out: Path, policy: str, engine: str, threads: int, steps: int, seed: int,
                 rate: float, deadline: float) -> None:
        self._out, bundle = out, read_bundle(policy)
        folder = bundle.folder.resolve()
        self._task = task_of(bundle.spec, folder)
        self._topics = topics(self._task, bundle.spec)
        config = find(f'config/{self._task.name}.yaml')
        if config is None:
            raise DprtError(f'config/{self._task.name}.yaml is not installed; install the package '
                            'again')
        given = {'policy': folder, 'engine': engine, 'threads': threads, 'control_rate': rate,
                 'deadline': deadline}
        if steps:
            given |= {'min_steps': steps, 'max_steps': steps}
        self._policy = ['--params-file', str(config), *_parameters(given)]
        self._robot = ['--params-file', str(config), *_parameters({'seed': seed})]

    def drive(self, seconds: int) -> None:
        """Run for `seconds` after the policy became active; stop everything at the end."""
        rclpy.init()
        try:
            with BagWriter(self._out / 'bag') as bag:
                recorder = Recorder(self._topics, bag)
                node = f'{self._task.name}_node'
                robot = NodeProcess(node, self._robot, self._out / f'{node}.log')
                policy = NodeProcess('policy_node', self._policy, self._out / 'policy_node.log')
                try:
                    self._run(recorder, robot, policy, seconds)
                finally:
                    policy.stop()
                    robot.stop()
                    _spin(recorder, 0.5)  # the last episode and the last ticks are on their way
                    recorder.destroy_node()
        finally:
            rclpy.try_shutdown()

    def _run(self, recorder: Recorder, robot: NodeProcess, policy: NodeProcess,
             seconds: int) -> None:
        change_state(recorder, '/policy', Transition.TRANSITION_CONFIGURE, policy)
        change_state(recorder, '/policy', Transition.TRANSITION_ACTIVATE, policy)
        with tqdm(total=seconds, unit='s', desc='driving') as bar:
            for _ in range(seconds):
                _spin(recorder, 1.0)
                bar.update()
                bar.set_postfix(ticks=recorder.counts['/policy/timing'])
                for process in (robot, policy):
                    if not process.running:
                        raise DprtError(f'a node ended early: {process.last_line()}')
        change_state(recorder, '/policy', Transition.TRANSITION_DEACTIVATE, policy)


def _parameters(values: dict[str, object]) -> list[str]:
    return [word for name, value in values.items() for word in ('-p', f'{name}:={value}')]


def _spin(recorder: Recorder, seconds: float) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        rclpy.spin_once(recorder, timeout_sec=left)
