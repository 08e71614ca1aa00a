"""A robot that puts faults into what it sends, and reads what the node counts of them."""

from __future__ import annotations

import re
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from std_msgs.msg import String

from diffusion_policy_rt.replay.live_faults import Case
from diffusion_policy_rt.replay.soak_robot import SoakRobot
from diffusion_policy_rt.runtime.observation import ROBOT
from diffusion_policy_rt.spec import PolicySpec

COUNTED = re.compile(r'dropped|stale|skewed|black|frozen|resized|halted|restarts|plans\.\w+')
"""Figures of `/diagnostics` that tell faults."""


class FaultRobot(SoakRobot):
    """Bends its first camera or its state as the `case` says, while there is one."""

    def __init__(self, spec: PolicySpec, width: int, height: int, hz: float, seed: int) -> None:
        self.case: Case | None = None
        self.reports = 0
        self.told: dict[str, int] = {}
        """The newest count of each fault, by its name and where it was counted."""
        self.camera = spec.cameras[0].name
        super().__init__(spec, width, height, hz, seed)
        self._engine = self.create_publisher(String, '/policy/engine_fault', 10)

    def inject(self, case: Case | None) -> None:
        """Begin a fault of a stream or of the engine; None ends it."""
        self.case = case
        self._engine.publish(String(data=case.engine if case else ''))

    def bend(self, stream: str, msg: Any) -> bool:
        """Bend a message as the case says; return whether it is sent."""
        case = self.case
        if case is None or stream not in (ROBOT, self.camera):
            return True
        change = case.state if stream == ROBOT else case.image
        if change is not None:
            change(msg)
        return stream == ROBOT or not case.silent

    def _diagnostics(self, msg: DiagnosticArray) -> None:
        super()._diagnostics(msg)
        for status in msg.status:
            task = status.name.partition(': ')[2]
            for pair in status.values:
                if COUNTED.fullmatch(pair.key) and pair.value.isdigit():
                    where = '' if task in ('loop', 'engine') else f' ({task})'
                    self.told[f'{pair.key}{where}'] = int(pair.value)
        self.reports += 1
