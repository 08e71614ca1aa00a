"""Run one node until it is told to stop, and let it end in order."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

import rclpy
from rclpy._rclpy_pybind11 import RCLError
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from diffusion_policy_rt.errors import DprtError

POLL_S = 0.1
"""How soon a signal, or the end of the parent, is noticed while no message comes [s]."""


def run(make_node: Callable[[], Node], args: list[str] | None = None) -> int:
    """Spin a node in this thread until SIGINT, SIGTERM or its own end; return the exit code.

    The end of the process that started it ends it too: with a launch that was killed, nobody is
    left who could stop the robot.

    rclpy's own signal handlers would invalidate the context first, and with it every publisher
    through which the robot could still be told to hold. The node has an event `finished`, which
    ends it, and `close()`, which ends its threads and sends what must still be sent.
    """
    stop, parent = threading.Event(), os.getppid()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    # the tick's thread gets the interpreter back within half a millisecond
    sys.setswitchinterval(0.0005)
    try:
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
        return _spin(make_node(), stop, parent)
    except (DprtError, RCLError) as error:  # the latter: arguments that ROS cannot parse
        rclpy.logging.get_logger('diffusion_policy_rt').error(str(error))
        return 1
    finally:
        rclpy.try_shutdown()


def _spin(node: Any, stop: threading.Event, parent: int) -> int:
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        while not stop.is_set() and not node.finished.is_set():
            if os.getppid() != parent:
                node.get_logger().error('the process that started this node has ended; so does it')
                break
            try:
                executor.spin_once(timeout_sec=POLL_S)
            except RCLError as error:  # a transition that this state does not have is one
                node.get_logger().error(f'a request was refused: {error}')
    finally:
        node.close()
        executor.shutdown()
        node.destroy_node()
    return 0
