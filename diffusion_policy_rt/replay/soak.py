"""Many ticks of a policy node against a real engine: what was late, lost or wild, and growth."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from lifecycle_msgs.msg import Transition
from tqdm import tqdm

from diffusion_policy_rt.engines.bundle import read_bundle
from diffusion_policy_rt.replay import plain_timer
from diffusion_policy_rt.replay.soak_robot import SoakRobot
from diffusion_policy_rt.ros.processes import NodeProcess, change_state
from diffusion_policy_rt.runtime.settings import LoopSettings
from diffusion_policy_rt.runtime.trace import Rung, Tick, percentiles, summarise

EDGES_MS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 1000)
"""Edges of the histograms [ms]."""
SILENCE_S, RESTART_S = 10.0, 1.0
"""Time without a tick after which the node counts as hung, and within which it must recover; and
after which it is asked to start, because the fuzzer may have stopped it."""
MOST_GROWTH = 32 << 20
"""Growth of the node's memory above which it leaks [bytes]."""
SETTLE = 0.2
"""Share of the run after which memory should no longer grow."""


@dataclasses.dataclass(frozen=True)
class Soak:
    """What to run."""

    policy: str
    engine: str
    ticks: int
    rate: float
    deadline: float
    width: int
    height: int
    hz: float
    busy: int
    """Processes that compute without end beside it."""
    fuzz: bool
    seed: int
    priority: int
    engine_process: bool = False
    parameters: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Of the node, beside those above."""

    def run(self) -> dict[str, Any]:
        """Return the figures; DprtError when the node does not start."""
        bundle = read_bundle(self.policy)
        rclpy.init()
        robot = SoakRobot(bundle.spec, self.width, self.height, self.hz, self.seed)
        try:
            with tempfile.TemporaryDirectory() as folder, _load(self.busy):
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
                  'control_rate': self.rate, 'deadline': self.deadline,
                  'engine_process': self.engine_process, 'realtime.priority': self.priority,
                  **self.parameters}
        return [word for name, value in values.items() for word in ('-p', f'{name}:={value}')]

    def _measure(self, robot: SoakRobot, process: NodeProcess) -> dict[str, Any]:
        for transition in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
            change_state(robot, '/policy', transition, process)
        if self.fuzz:
            return self._drive(robot, process)  # its deadline changes: lateness says nothing
        with _plain_timer(self.rate) as plain:
            row = self._drive(robot, process)
        row |= _lateness(robot.ticks, self.deadline)
        ratio = row['lateness_chunk_s']['p99'] / plain['p99'] if plain else None
        return {**row, 'plain_timer_s': plain, 'lateness_ratio': ratio}

    def _drive(self, robot: SoakRobot, process: NodeProcess) -> dict[str, Any]:
        robot.fuzzing = self.fuzz
        memory: list[int] = []
        spent, before = process.cpu_s(), len(robot.ticks)
        ended = _spin(robot, process, memory, self.ticks)
        spent = (process.cpu_s() - spent) / max(1, len(robot.ticks) - before)
        robot.fuzzing = False
        recovered = not ended and self._recover(robot, process)
        return {**_row(robot, memory, ended, recovered), 'cpu_s_per_tick': spent}

    def _recover(self, robot: SoakRobot, process: NodeProcess) -> bool:
        """Whether a sound robot, asked to start, is planned for again."""
        robot.set({**dataclasses.asdict(LoopSettings()), 'replan_ticks': 1,
                   'deadline': self.deadline, 'control_rate': self.rate})
        robot.call('reset')
        robot.call('start')
        end = time.monotonic() + SILENCE_S
        while process.running and time.monotonic() < end:
            rclpy.spin_once(robot, timeout_sec=0.1)
            if robot.fresh:
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


@contextmanager
def _load(count: int) -> Iterator[None]:
    busy = [subprocess.Popen([sys.executable, '-c', 'while True: pass']) for _ in range(count)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


@contextmanager
def _plain_timer(rate: float) -> Iterator[dict[str, float]]:
    """Run a plain rclpy timer beside; its figures are there afterwards."""
    process = subprocess.Popen([sys.executable, '-m', plain_timer.__name__, str(rate)],
                               stdout=subprocess.PIPE, text=True)
    figures: dict[str, float] = {}
    try:
        yield figures
    finally:
        process.terminate()
        figures |= json.loads(process.communicate()[0] or '{}')


# -- figures -----------------------------------------------------------------------------------

def lateness(ticks: list[Tick], deadline_s: float) -> list[float]:
    """Return how long after its scheduled instant each tick's action left [s]."""
    return [deadline_s - tick.slack_s for tick in ticks if tick.rung != Rung.STOP]


def histogram(seconds: list[float]) -> dict[str, int]:
    """Return counts by upper edge; `more` counts what lies above the last."""
    edges = np.array([0, *EDGES_MS, math.inf])
    counts, _ = np.histogram(1e3 * np.maximum([s for s in seconds if math.isfinite(s)], 0), edges)
    return {f'{e:g} ms': int(n) for e, n in zip(EDGES_MS, counts)} | {'more': int(counts[-1])}


def unaccounted(ticks: list[Tick]) -> int:
    """Return how many tick numbers are missing; they count from 0 after each start."""
    pairs = itertools.pairwise(tick.tick for tick in ticks)
    return sum(after - before - 1 for before, after in pairs if after > before)


def _row(robot: SoakRobot, memory: list[int], ended: str, recovered: bool) -> dict[str, Any]:
    ticks, settled = list(robot.ticks), memory[math.ceil(SETTLE * len(memory)) - 1:] or [0]
    return {**summarise(ticks), 'unaccounted': unaccounted(ticks), 'ended': ended,
            'recovered': recovered, 'wild_actions': len(robot.wild), 'first_wild': robot.wild[:1],
            **{name: robot.counts[name] for name in ('actions', 'messages', 'bent', 'requests')},
            'resident_bytes': settled[-1], 'growth_bytes': settled[-1] - settled[0],
            'stamp_to_publish_histogram': histogram([t.stamp_to_publish_s for t in ticks])}


def _lateness(ticks: list[Tick], deadline_s: float) -> dict[str, Any]:
    """Return the lateness of all actions, and of those of ticks that planned nothing."""
    row: dict[str, Any] = {}
    for name, some in (('all', ticks), ('chunk', [t for t in ticks if t.rung == Rung.CHUNK])):
        late = lateness(some, deadline_s)
        row |= {f'lateness_{name}_s': {**percentiles(late), 'p99.9': float(
            np.percentile(late or [math.nan], 99.9))},
            f'lateness_{name}_histogram': histogram(late)}
    return row


def verdict(row: dict[str, Any]) -> list[str]:
    """Return what may not be, in words; [] when all is well."""
    rules = [
        (bool(row['ended']), str(row['ended'])),
        (bool(row['wild_actions']), f'{row["wild_actions"]} actions were not finite or out of '
         f'bounds, the first {row["first_wild"]}'),
        (bool(row['unaccounted']), f'{row["unaccounted"]} ticks were not told'),
        (not row['ended'] and not row['recovered'],
         f'no plan within {SILENCE_S:g} s of a sound robot'),
        (row['growth_bytes'] > MOST_GROWTH, f'memory grew by {row["growth_bytes"] >> 20} MiB')]
    return [told for broken, told in rules if broken]
