"""Records the topics of a soak's robot and of the policy until SIGTERM."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float64MultiArray, String
from trajectory_msgs.msg import JointTrajectory

from diffusion_policy_rt.ros.bag import BagWriter
from diffusion_policy_rt.ros.recorder import Recorder, Topic


def topics(cameras: Sequence[str]) -> list[Topic]:
    """Return what is recorded."""
    return [*(Topic(f'/camera/{name}/image_raw', Image, reliable=False) for name in cameras),
            Topic('/joint_states', JointState, reliable=False),
            Topic('/policy/action', JointTrajectory), Topic('/policy/timing', Float64MultiArray),
            Topic('/policy/events', String), Topic('/policy/policy_info', String, latched=True),
            Topic('/diagnostics', DiagnosticArray)]


def run(folder: Path, cameras: Sequence[str], stop: threading.Event) -> None:
    """Record into the bag `folder` until `stop`."""
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    with BagWriter(folder) as bag:
        recorder = Recorder(topics(cameras), bag)
        while not stop.is_set():
            rclpy.spin_once(recorder, timeout_sec=0.1)
        recorder.destroy_node()
    rclpy.shutdown()


if __name__ == '__main__':
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    run(Path(sys.argv[1]), sys.argv[2:], ended)
