"""Start nodes as processes of their own and walk a managed node through its states."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import rclpy
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.node import Node

from diffusion_policy_rt.errors import DprtError

PATIENCE_S = 30.0
"""How long a node may take to appear or to change its state."""


class NodeProcess:
    """One node in a process of its own; its output goes to a log file."""

    def __init__(self, module: str, arguments: Sequence[str], log: Path) -> None:
        self.log = log
        with log.open('wb') as file:
            self._process = subprocess.Popen(
                [sys.executable, '-m', f'diffusion_policy_rt.ros.{module}', '--ros-args',
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
    """Ask the managed node `target` for a transition; DprtError tells what it logged."""
    client = node.create_client(ChangeState, f'{target}/change_state')
    try:
        if not client.wait_for_service(PATIENCE_S):
            raise DprtError(f'{target} did not start: {process.last_line()}')
        future = client.call_async(ChangeState.Request(transition=Transition(id=transition)))
        rclpy.spin_until_future_complete(node, future, timeout_sec=PATIENCE_S)
        if not future.done() or not future.result().success:
            raise DprtError(f'{target} did not follow: {process.last_line()}')
    finally:
        node.destroy_client(client)
