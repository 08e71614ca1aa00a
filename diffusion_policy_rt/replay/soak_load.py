"""What a soak runs beside the node, in processes of its own: computing, memory, a recorder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from diffusion_policy_rt.errors import DprtError

BUSY = ('import os, sys\n'
        'while os.getppid() == int(sys.argv[1]):\n'
        '    for _ in range(1_000_000): pass')
TOUCHING = ('import numpy, os, sys\n'
            'memory = numpy.zeros(int(sys.argv[2]), numpy.uint8)\n'
            'while os.getppid() == int(sys.argv[1]): memory += 1')
RECORDER = 'diffusion_policy_rt.replay.soak_recorder'
SPARE = 512 << 20
"""Memory that is left to all others [bytes]."""


@dataclass(frozen=True)
class Load:
    """What runs beside a node; nothing by default."""

    busy: int = 0
    """Processes that compute without end."""
    memory: int = 0
    """Bytes that one process writes over and over."""
    record: Path | None = None
    """The bag into which all topics of robot and policy are recorded."""

    def check(self) -> None:
        """Raise DprtError where it cannot be run here."""
        available = available_bytes()
        if self.memory > max(0, available - SPARE):
            raise DprtError(f'--memory {self.memory >> 20}: this machine has {available >> 20} '
                            f'MiB left, and {SPARE >> 20} of them must stay; ask for less')
        if self.record is not None and self.record.exists():
            raise DprtError(f'--record {self.record}: it exists; name a folder that does not')

    @contextmanager
    def running(self, cameras: Sequence[str]) -> Iterator[None]:
        """Run it, for a robot with these cameras."""
        with ExitStack() as stack:
            for _ in range(self.busy):
                stack.enter_context(_process(('-c', BUSY)))
            if self.memory:
                stack.enter_context(_process(('-c', TOUCHING), str(self.memory)))
            if self.record:
                stack.enter_context(_process(('-m', RECORDER), str(self.record), *cameras))
            yield


@contextmanager
def _process(program: Sequence[str], *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run Python until the end of the block, where Ctrl-C does not reach it.

    The program's first argument is the process id of this one, with which it ends (`soak_child`).
    """
    with subprocess.Popen([sys.executable, *program, str(os.getpid()), *arguments],
                          stdout=subprocess.PIPE, text=True,
                          start_new_session=True) as process:
        try:
            yield process
        finally:
            process.terminate()


@contextmanager
def plain_timer(rate: float) -> Iterator[dict[str, float]]:
    """Run a plain rclpy timer of `rate` [Hz]; its figures [s] are there afterwards."""
    figures: dict[str, float] = {}
    with _process(('-m', 'diffusion_policy_rt.replay.plain_timer'), str(rate)) as process:
        try:
            yield figures
        finally:
            process.terminate()
            figures |= json.loads(process.communicate()[0] or '{}')


def available_bytes() -> int:
    """Return the memory that can be had without swapping; 0 where the system does not tell."""
    try:
        lines = Path('/proc/meminfo').read_text().splitlines()
    except OSError:
        return 0
    fields = dict(line.split(':') for line in lines)
    return int(fields.get('MemAvailable', '0').split()[0]) << 10
