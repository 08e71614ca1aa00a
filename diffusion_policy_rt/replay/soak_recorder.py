"""Records the topics of a soak's robot and of the policy until SIGTERM, or its parent's end."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float64MultiArray, String
from trajectory_msgs.msg import JointTrajectory

from diffusion_policy_rt.replay.soak_child import wanted_by
from diffusion_policy_rt.ros.bag import BagWriter
from diffusion_policy_rt.ros.recorder import Recorder, Topic


def topics(cameras: Sequence[str]) -> list[Topic]:
    """Return what is recorded."""
    return [*(Topic(f'/camera/{name}/image_raw', Image, reliable=False) for name in cameras),
            Topic('/joint_states', JointState, reliable=False),
            Topic('/policy/action', JointTrajectory), Topic('/policy/timing', Float64MultiArray),
            Topic('/policy/events', String), Topic('/policy/policy_info', String, latched=True),
            Topic('/diagnostics', DiagnosticArray)]


def run(folder: Path, cameras: Sequence[str], wanted: Callable[[], bool]) -> None:
    """Record into the bag `folder` while it is `wanted`."""
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    with BagWriter(folder) as bag:
        recorder = Recorder(topics(cameras), bag)
        while wanted():
            rclpy.spin_once(recorder, timeout_sec=0.1)
        recorder.destroy_node()
    rclpy.shutdown()


if __name__ == '__main__':
    run(Path(sys.argv[2]), sys.argv[3:], wanted_by(int(sys.argv[1])))
