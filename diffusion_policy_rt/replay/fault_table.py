"""Faults in a running node, one by one: which rung answered, after how many ticks it recovered.

    tick   ... fresh fresh | chunk chunk hold stop ... | hold hold fresh
                        injected                    removed       recovered

Ticks are counted as they come in, so a message that is on its way may move a bound by one.
"""

from __future__ import annotations

import itertools
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import rclpy
from lifecycle_msgs.msg import Transition
from tqdm import tqdm

from diffusion_policy_rt.engines.bundle import read_bundle
from diffusion_policy_rt.errors import DprtError
from diffusion_policy_rt.replay.fault_robot import FaultRobot
from diffusion_policy_rt.replay.live_faults import CASES, HALT, PROCESS, Case, Rule
from diffusion_policy_rt.replay.soak_figures import unaccounted
from diffusion_policy_rt.ros.processes import NodeProcess, change_state
from diffusion_policy_rt.runtime.trace import Rung, Tick

PATIENCE_S = 60.0
"""Time that no wait for the node should take; a node that hangs ends with a reason [s]."""
PLANNED = (Rung.FRESH, Rung.FEWER)
SETTLED, SILENT, LONGEST_S = 5, 3, 4.0
"""Planned ticks before a fault; ticks on STOP that end it, and the most that it lasts [s]."""
WAITED = 10
"""Ticks without the fault in which a halted robot must not move."""


@dataclass(frozen=True)
class FaultTable:
    """What to run; each rule has a node of its own."""

    policy: str
    engine: str
    rate: float
    deadline: float
    width: int
    height: int
    hz: float
    seed: int
    parameters: Mapping[str, object] = field(default_factory=dict)
    """Of the node, beside those of the rules."""

    def run(self, cases: Sequence[Case] = CASES) -> list[dict[str, Any]]:
        """Return a row per case; DprtError when a node does not start or hangs."""
        bundle, rows = read_bundle(self.policy), []
        rclpy.init()
        robot = FaultRobot(bundle.spec, self.width, self.height, self.hz, self.seed)
        try:
            with tqdm(total=len(cases), unit='fault') as bar:
                for rule, some in itertools.groupby(cases, key=lambda case: case.rule):
                    with self._node(rule, robot, str(bundle.folder.resolve())) as process:
                        for case in some:
                            rows.append(Trial(robot, process, case,
                                              round(LONGEST_S * self.rate)).run())
                            bar.update()
        finally:
            robot.close()
            rclpy.try_shutdown()
        return rows

    @contextmanager
    def _node(self, rule: Rule, robot: FaultRobot, policy: str) -> Iterator[NodeProcess]:
        values = {'policy': policy, 'engine': self.engine, 'enable_output': True,
                  'control_rate': self.rate, 'deadline': self.deadline, 'replan_ticks': 1,
                  **self.parameters,
                  **{name.format(camera=robot.camera): value
                     for name, value in rule.parameters.items()}}
        words = [word for name, value in values.items() for word in ('-p', f'{name}:={value}')]
        robot.told.clear()
        with tempfile.TemporaryDirectory() as folder:
            process = NodeProcess('faulty_node', words, Path(folder) / 'log', __package__)
            try:
                for change in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
                    change_state(robot, '/policy', change, process)
                yield process
            finally:
                process.stop()


@dataclass
class Trial:
    """One fault in a node that runs."""

    robot: FaultRobot
    process: NodeProcess
    case: Case
    longest: int
    """Ticks that the fault lasts at most."""

    def run(self) -> dict[str, Any]:
        """Inject the fault, remove it, wait until there is a fresh plan; return the row."""
        robot, case = self.robot, self.case
        self._report()
        self._until(lambda: self._settled)
        before, sent, wild = dict(robot.told), robot.counts['actions'], len(robot.wild)
        start = len(robot.ticks)
        self._inject()
        self._until(lambda: self._ended(start))
        if case.rule != PROCESS:
            self._report()
        removed, recovery = self._remove(start), 'by itself'
        if case.rule == HALT:
            self._until(lambda: len(robot.ticks) >= removed + WAITED)
            silent = {tick.rung for tick in robot.ticks[removed + 1:]} == {Rung.STOP}
            robot.call('start')
            removed, recovery = len(robot.ticks), '~/start' if silent else 'before ~/start'
        self._until(lambda: self._recovered(removed) > 0)
        ticks, after = robot.ticks[start:], self._recovered(removed)
        sent = robot.counts['actions'] - sent
        self._report()
        told = {name: count - before.get(name, 0) for name, count in robot.told.items()
                if count > before.get(name, 0)}
        return {'fault': case.name, 'rule': case.rule.name, 'counted': told,
                'rungs': _rungs(ticks),
                'lasted_ticks': removed - start, 'recovered_ticks': after, 'recovery': recovery,
                'actions': sent, 'wild_actions': len(robot.wild) - wild,
                'unaccounted': unaccounted(ticks)}

    def _inject(self) -> None:
        if self.case.number is None:
            self.robot.inject(self.case)
            return
        for pid in self.process.children():
            os.kill(pid, self.case.number)

    def _remove(self, start: int) -> int:
        """End the fault; return how many ticks there were by then. A signal takes no time."""
        if self.case.number is not None:
            return start
        self.robot.inject(None)
        return len(self.robot.ticks)

    def _ended(self, start: int) -> bool:
        """Whether the end of the ladder is reached, or the fault has lasted long enough."""
        ticks = self.robot.ticks[start:]
        if self.case.number is not None:
            return bool(self._recovered(start))
        return len(ticks) >= self.longest or len(ticks) > SILENT and all(
            tick.rung == Rung.STOP for tick in ticks[-SILENT:])

    @property
    def _settled(self) -> bool:
        """Whether the newest ticks all planned, some of them from new frames."""
        rungs = [tick.rung for tick in self.robot.ticks[-SETTLED:]]
        return len(rungs) == SETTLED and max(rungs) <= Rung.CACHED and min(rungs) in PLANNED

    def _recovered(self, since: int) -> int:
        """Return after how many ticks there was a fresh plan again, 0 while there is none."""
        rungs = [tick.rung for tick in self.robot.ticks[since:]]
        down = 0 if self.case.number is None else next(
            (i for i, rung in enumerate(rungs) if rung > Rung.CACHED), len(rungs))
        return next((i + 1 for i in range(down, len(rungs)) if rungs[i] in PLANNED), 0)

    def _report(self) -> None:
        """Wait for diagnostics that were made from now on."""
        seen = self.robot.reports
        self._until(lambda: self.robot.reports >= seen + 2)

    def _until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE_S
        while not condition():
            if not self.process.running or time.monotonic() > end:
                why = f'waited {PATIENCE_S:g} s in vain' if self.process.running else 'it ended'
                raise DprtError(f'{self.case.name} ({self.case.rule.name}): {why}; the node said: '
                                f'{self.process.last_line()}')
            rclpy.spin_once(self.robot, timeout_sec=0.05)


def _rungs(ticks: list[Tick]) -> dict[str, int]:
    """Return how many ticks were on each rung, in the order in which they came up.

    Those that a busy machine did not let run in time come last, as `missed`.
    """
    names = [tick.rung.name.lower() for tick in ticks if not tick.missed]
    missed = sum(tick.missed for tick in ticks)
    return {**Counter(names), **({'missed': missed} if missed else {})}


def verdict(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return what may not be, in words; [] when all is well."""
    rules: tuple[tuple[str, Callable[[dict[str, Any]], bool]], ...] = (
        ('published an action that was not finite or out of bounds', lambda r: r['wild_actions']),
        ('ticks were not told', lambda r: r['unaccounted']),
        ('nothing was counted', lambda r: not r['counted']),
        ('moved again before ~/start', lambda r: r['recovery'] == 'before ~/start'))
    return [f'{row["fault"]} ({row["rule"]}): {told}' for row in rows for told, broken in rules
            if broken(row)]


def page(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as a table in Markdown."""
    head = ('| injected | rule | counted in `/diagnostics` | ticks by rung, until recovered '
            '| actions published | ticks to a fresh plan |\n|---|---|---|---|---|---|')
    return '\n'.join([head, *(
        f'| {row["fault"]} | `{row["rule"]}` | {_counts(row["counted"])} | '
        f'{_counts(row["rungs"])} | {row["actions"]} | {row["recovered_ticks"]}'
        f'{" after `~/start`" if row["rule"] == HALT.name else ""} |' for row in rows)])


def _counts(counts: dict[str, int]) -> str:
    return ', '.join(f'{name} {count}' for name, count in counts.items())
