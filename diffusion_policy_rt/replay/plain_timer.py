"""A plain rclpy timer that publishes, in a process of its own: what the ticks are held against."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

import rclpy
from rclpy.clock import Clock, ClockType
from rclpy.signals import SignalHandlerOptions
from std_msgs.msg import Float64MultiArray

from diffusion_policy_rt.replay.soak_child import wanted_by
from diffusion_policy_rt.replay.soak_figures import histogram, spread


def run(rate: float, wanted: Callable[[], bool]) -> dict[str, Any]:
    """Tick at `rate` [Hz] while it is `wanted`; return the spread [s] and counts of its lateness.

    What it misses too, at the same instants, is not for the node to mend.
    """
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node('plain_timer')
    publisher = node.create_publisher(Float64MultiArray, '~/value', 1)
    message = Float64MultiArray(data=[0.0, 0.0])
    late: list[float] = []
    period = round(1e9 / rate)

    def tick() -> None:
        publisher.publish(message)
        # the timer's next call is already set, one period after this one was due
        late.append(period - timer.time_until_next_call())

    timer = node.create_timer(1 / rate, tick, clock=Clock(clock_type=ClockType.STEADY_TIME))
    while wanted():
        rclpy.spin_once(node, timeout_sec=0.1)
    node.destroy_node()
    rclpy.shutdown()
    seconds = [ns / 1e9 for ns in late]
    return {**spread(seconds), 'histogram': histogram(seconds)}


if __name__ == '__main__':
    parent = int(sys.argv[1])
    made = run(float(sys.argv[2]), wanted_by(parent))
    if os.getppid() == parent:  # else nobody reads it
        print(json.dumps(made))
