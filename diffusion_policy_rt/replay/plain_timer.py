"""A plain rclpy timer that publishes, in a process of its own: what the ticks are held against."""

from __future__ import annotations

import json
import signal
import sys
import threading
from typing import Any

import rclpy
from rclpy.clock import Clock, ClockType
from rclpy.signals import SignalHandlerOptions
from std_msgs.msg import Float64MultiArray

from diffusion_policy_rt.replay.soak_figures import histogram, spread


def run(rate: float, stop: threading.Event) -> dict[str, Any]:
    """Tick at `rate` [Hz] until `stop`; return the publications' lateness: its spread [s], counts.

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
    while not stop.is_set():
        rclpy.spin_once(node, timeout_sec=0.1)
    node.destroy_node()
    rclpy.shutdown()
    seconds = [ns / 1e9 for ns in late]
    return {**spread(seconds), 'histogram': histogram(seconds)}


if __name__ == '__main__':
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    print(json.dumps(run(float(sys.argv[1]), ended)))
