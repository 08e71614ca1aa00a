"""Start nodes as processes of their own and walk a managed node through its states."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import rclpy
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.node import Node

from diffusion_policy_rt.errors import DprtError

PATIENCE_S, ATTEMPTS = 15.0, 3
"""How long a node may take to appear, or to change its state, in each attempt."""
REACHED = {Transition.TRANSITION_CONFIGURE: State.PRIMARY_STATE_INACTIVE,
           Transition.TRANSITION_ACTIVATE: State.PRIMARY_STATE_ACTIVE,
           Transition.TRANSITION_DEACTIVATE: State.PRIMARY_STATE_INACTIVE}
"""Where a transition leads."""


class NodeProcess:
    """One node in a process of its own; its output goes to a log file."""

    def __init__(self, module: str, arguments: Sequence[str], log: Path,
                 package: str = __package__) -> None:
        self.log = log
        with log.open('wb') as file:
            self._process = subprocess.Popen(
                [sys.executable, '-m', f'{package}.{module}', '--ros-args',
                 *arguments], stdout=file, stderr=subprocess.STDOUT, start_new_session=True)

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process.poll() is None

    def resident_bytes(self) -> int:
        """Return the memory that the process has in use; 0 once it ended."""
        try:
            pages = Path(f'/proc/{self._process.pid}/statm').read_text().split()[1]
        except OSError:
            return 0
        return int(pages) * os.sysconf('SC_PAGE_SIZE')

    def cpu_s(self) -> float:
        """Return the processor time that its threads have had [s]; 0 once it ended."""
        try:
            fields = Path(f'/proc/{self._process.pid}/stat').read_text().rpartition(')')[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')

    def children(self) -> list[int]:
        """Return the process ids of its children."""
        tasks = Path(f'/proc/{self._process.pid}/task')
        return [int(pid) for task in tasks.glob('*/children') for pid in task.read_text().split()]

    def stop(self, seconds: float = 5.0) -> None:
        """Interrupt the node as Ctrl-C would; kill it when it does not end."""
        if self.running:
            os.kill(self._process.pid, signal.SIGINT)
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def last_line(self) -> str:
        """Return the last line of its log that tells an error, or the last line at all."""
        lines = self.log.read_text(errors='replace').strip().splitlines() or ['(no output)']
        return next((line for line in reversed(lines) if 'ERROR' in line), lines[-1])


def change_state(node: Node, target: str, transition: int, process: NodeProcess) -> None:
    """Ask the managed node `target` for a transition; DprtError tells what it logged.

    A request or its answer may be lost while the two nodes are still discovering each other, so
    one without an answer is asked again, unless the node is there already.
    """
    for _ in range(ATTEMPTS):
        answer = _call(node, ChangeState, f'{target}/change_state',
                       ChangeState.Request(transition=Transition(id=transition)))
        if answer is not None or not process.running:
            break
        state = _call(node, GetState, f'{target}/get_state', GetState.Request())
        if state is not None and state.current_state.id == REACHED[transition]:
            return
    if answer is None or not answer.success:
        raise DprtError(f'{target} did not {"start" if answer is None else "follow"}: '
                        f'{process.last_line()}')


def _call(node: Node, kind: Any, name: str, request: Any) -> Any:
    """Return the service's answer, or None without one."""
    client = node.create_client(kind, name)
    try:
        if not client.wait_for_service(PATIENCE_S):
            return None
        future = client.call_async(request)
        rclpy.spin_until_future_complete(node, future, timeout_sec=PATIENCE_S)
        return future.result() if future.done() else None
    finally:
        node.destroy_client(client)
