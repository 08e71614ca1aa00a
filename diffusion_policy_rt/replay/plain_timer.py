"""A plain rclpy timer that publishes, in a process of its own: what the ticks are held against."""

from __future__ import annotations

import json
import signal
import sys
import threading

import numpy as np
import rclpy
from rclpy.clock import Clock, ClockType
from rclpy.signals import SignalHandlerOptions
from std_msgs.msg import Float64MultiArray


def run(rate: float, stop: threading.Event) -> dict[str, float]:
    """Tick at `rate` [Hz] until `stop`; return percentiles of the publications' lateness [s]."""
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
    seconds = np.array(late if late else [np.nan], float) / 1e9
    return {f'p{p:g}': float(np.percentile(seconds, p)) for p in (50, 99, 99.9)}


if __name__ == '__main__':
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    print(json.dumps(run(float(sys.argv[1]), ended)))
