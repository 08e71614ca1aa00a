"""Many ticks of a policy node against a real engine: what was late, lost or wild, and growth."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import rclpy
from lifecycle_msgs.msg import Transition
from rclpy.signals import SignalHandlerOptions
from tqdm import tqdm

from diffusion_policy_rt.engines.bundle import read_bundle
from diffusion_policy_rt.replay.soak_figures import counts, growth, timings
from diffusion_policy_rt.replay.soak_load import Load, plain_timer
from diffusion_policy_rt.replay.soak_robot import SoakRobot
from diffusion_policy_rt.ros.processes import NodeProcess, change_state
from diffusion_policy_rt.runtime.settings import LoopSettings

SILENCE_S, RESTART_S = 10.0, 1.0
"""Time without a tick after which the node counts as hung, and within which it must recover; and
after which it is asked to start, because the fuzzer may have stopped it."""


@dataclasses.dataclass(frozen=True)
class Soak:
    """What to run."""

    policy: str = 'pusht'
    engine: str = 'auto'
    ticks: int = 100_000
    rate: float = 50.0
    deadline: float = 0.01
    width: int = 96
    height: int = 96
    hz: float = 10.0
    load: Load = Load()
    """It begins when the node is active."""
    fuzz: bool = False
    seed: int = 0
    parameters: Mapping[str, object] = dataclasses.field(default_factory=dict)
    """Of the node, beside those that follow from the above."""

    def run(self) -> dict[str, Any]:
        """Return the figures, of what there is where Ctrl-C ends it (`interrupted`).

        Raises DprtError when the node does not start or the load cannot be run.
        """
        self.load.check()
        bundle = read_bundle(self.policy)
        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
        robot = SoakRobot(bundle.spec, self.width, self.height, self.hz, self.seed)
        try:
            with tempfile.TemporaryDirectory() as folder:
                process = NodeProcess('policy_node', self._arguments(str(bundle.folder.resolve())),
                                      Path(folder) / 'log')
                try:
                    return self._measure(robot, process)
                finally:
                    process.stop()
        finally:
            robot.close()
            rclpy.try_shutdown()

    def _arguments(self, policy: str) -> list[str]:
        values = {'policy': policy, 'engine': self.engine, 'enable_output': True,
                  'control_rate': self.rate, 'deadline': self.deadline, **self.parameters}
        return [word for name, value in values.items() for word in ('-p', f'{name}:={value}')]

    def _measure(self, robot: SoakRobot, process: NodeProcess) -> dict[str, Any]:
        for transition in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
            change_state(robot, '/policy', transition, process)
        with self.load.running(list(robot.sent)):
            if self.fuzz:
                return self._drive(robot, process)  # its deadline changes: lateness says nothing
            with plain_timer(self.rate) as plain:
                row = self._drive(robot, process)
        row |= timings(robot.ticks, self.deadline)
        ours, theirs = row['lateness_chunk_s']['p99'], plain.get('p99')
        return {**row, 'plain_timer_s': plain,
                'lateness_ratio': ours / theirs if ours and theirs else None}

    def _drive(self, robot: SoakRobot, process: NodeProcess) -> dict[str, Any]:
        robot.sound = {**dataclasses.asdict(LoopSettings()), 'replan_ticks': 1,
                       'deadline': self.deadline, 'control_rate': self.rate}
        robot.fuzzing = self.fuzz
        memory: list[int] = []
        spent, before = process.cpu_s(), len(robot.ticks)
        ended, interrupted = '', False
        try:
            ended = _spin(robot, process, memory, self.ticks)
        except KeyboardInterrupt:
            interrupted = True
        spent = (process.cpu_s() - spent) / max(1, len(robot.ticks) - before)
        robot.fuzzing = False
        recovered = None if ended or interrupted else self._recover(robot, process)
        return {**counts(robot.ticks), **growth(memory), **robot.figures(), 'ended': ended,
                'interrupted': interrupted, 'recovered': recovered, 'cpu_s_per_tick': spent}

    def _recover(self, robot: SoakRobot, process: NodeProcess) -> bool:
        """Whether a sound robot, asked to start, is planned for again."""
        robot.set(robot.sound)
        robot.call('reset')
        robot.call('start')
        end = time.monotonic() + SILENCE_S
        while process.running and time.monotonic() < end:
            rclpy.spin_once(robot, timeout_sec=0.1)
            if robot.planned:
                return True
        return False


def _spin(robot: SoakRobot, process: NodeProcess, memory: list[int], count: int) -> str:
    """Run until `count` ticks came; return why it ended before, or ''."""
    since = asked = time.monotonic()
    with tqdm(total=count, unit='tick') as bar:
        while bar.n < count:
            rclpy.spin_once(robot, timeout_sec=0.1)
            now = time.monotonic()
            if len(robot.ticks) > bar.n:
                bar.set_postfix(missed=robot.missed, refresh=False)
                bar.update(len(robot.ticks) - bar.n)
                since = asked = now
            if not process.running:
                return f'the node ended: {process.last_line()}'
            if now > since + SILENCE_S:
                return f'no tick for {SILENCE_S:g} s'
            if robot.fuzzing and now > asked + RESTART_S:
                robot.call('start')
                asked = now
            if len(memory) * 100 <= bar.n:
                memory.append(process.resident_bytes())
    return ''
