"""`bag_player`: plays a bag with its clock into running nodes, and records what they answer.

For machines without `ros2 bag play --clock`. It stands at the bag's start until the node to play
to is active; what that node itself publishes is played under /recorded, aside.
"""

from __future__ import annotations

import importlib
import sys
import threading
import time
from pathlib import Path
from typing import Any

from builtin_interfaces.msg import Time
from lifecycle_msgs.srv import GetState
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.node import Node
from rclpy.publisher import Publisher
from rosgraph_msgs.msg import Clock
from std_msgs.msg import Float64MultiArray, String
from trajectory_msgs.msg import JointTrajectory

from diffusion_policy_rt.errors import DataError
from diffusion_policy_rt.ros.bag import Bag, BagWriter, Topic as BagTopic, to_cdr
from diffusion_policy_rt.ros.recorder import Topic, record
from diffusion_policy_rt.ros.spin import run

CLOCK_S = 0.01
"""How often /clock is told between messages [s]."""
AFTER_S = 0.5
"""How long the clock goes on after the last message, so that the last answers come [s]."""
PARAMETERS = {
    'bag': ('', 'The bag to play: a folder or a file, of ROS 2 or ROS 1.'),
    'rate': (1.0, 'Seconds of the bag per second.'),
    'node': ('/policy', 'Managed node to play to: it is waited for until it is active.'),
    'record': ('', 'Folder of the bag in which its answers are recorded; empty for none.')}


class BagPlayer(Node):
    """Publishes the messages of a bag, and /clock, in a thread of its own."""

    def __init__(self, **options: Any) -> None:
        super().__init__('bag_player', **options)
        for name, (default, description) in PARAMETERS.items():
            self.declare_parameter(name, default, ParameterDescriptor(
                description=description, read_only=True))
        self.finished, self._closing = threading.Event(), threading.Event()
        rate = self._value('rate')
        if not rate > 0:
            raise DataError(f'parameter rate is {rate}; it must be above zero')
        self._rate, self._bag = rate, Bag(Path(self._value('bag')))
        self._now = self._bag.span_ns[0]
        if not self._now:
            raise DataError(f'{self._bag.path} holds no messages, or does not tell when it begins')
        self._clock_topic = self.create_publisher(Clock, '/clock', 10)
        self._state = self.create_client(GetState, f'{self._value("node")}/get_state')
        self._types = {t.name: t.msgtype for t in self._bag.topics}
        self._publishers_of = {t.name: self._publisher(t) for t in self._bag.topics}
        self._recorded = self._record()
        self._thread = threading.Thread(target=self._play, name='player', daemon=True)
        self._thread.start()

    def _value(self, name: str) -> Any:
        return self.get_parameter(name).value

    def _publisher(self, topic: BagTopic) -> Publisher | None:
        """Return the publisher of a topic; None, and a word, for a type that is not installed."""
        package, _, name = topic.msgtype.split('/')
        try:
            kind = getattr(importlib.import_module(f'{package}.msg'), name)
        except (ImportError, AttributeError):
            self.get_logger().warning(f'{topic.name} is not played: install {package}')
            return None
        aside = topic.name.startswith((f'{self._value("node")}/', '/diagnostics', '/clock'))
        return self.create_publisher(kind, f'/recorded{topic.name}' if aside else topic.name, 10)

    def _record(self) -> BagWriter | None:
        if not self._value('record'):
            return None
        bag, node = BagWriter(Path(self._value('record'))), self._value('node')
        bag.__enter__()
        record(self, [Topic(f'{node}/action', JointTrajectory),
                      Topic(f'{node}/shadow_action', JointTrajectory),
                      Topic(f'{node}/timing', Float64MultiArray),
                      Topic(f'{node}/events', String),
                      Topic(f'{node}/policy_info', String, latched=True)], bag, lambda: self._now)
        return bag

    # -- playing -------------------------------------------------------------------------------

    def _play(self) -> None:
        """Play to the end; whatever is raised is told, and ends the node."""
        try:
            self._wait_for_node()
            self._play_messages()
        except Exception as error:
            self.get_logger().error(f'playing ended: {error}')
        finally:
            self.finished.set()

    def _wait_for_node(self) -> None:
        while not self._closing.wait(CLOCK_S):
            self._tell_clock()
            if not self._state.service_is_ready():
                continue
            answer = self._state.call_async(GetState.Request())
            for _ in range(100):
                if answer.done() or self._closing.wait(CLOCK_S):
                    break
                self._tell_clock()
            if answer.done() and answer.result().current_state.label == 'active':
                return

    def _play_messages(self) -> None:
        start, begun = self._now, time.monotonic_ns()
        for topic, stamp_ns, data in self._bag.messages():
            self._pass_time(start, begun, stamp_ns)
            publisher = self._publishers_of[topic]
            if self._closing.is_set():
                return
            if publisher is not None:
                publisher.publish(to_cdr(data, self._types[topic]))
        if self._bag.damage:
            self.get_logger().warning(f'{self._bag.damage}; played to its last good message')
        self._pass_time(start, begun, self._now + round(AFTER_S * 1e9))

    def _pass_time(self, start: int, begun: int, until_ns: int) -> None:
        """Tell the clock until it is `until_ns` on the bag's timeline."""
        while not self._closing.is_set():
            now = start + round(self._rate * (time.monotonic_ns() - begun))
            self._now = max(self._now, min(now, until_ns))
            self._tell_clock()
            if now >= until_ns:
                return
            time.sleep(min(CLOCK_S, (until_ns - now) / self._rate / 1e9))

    def _tell_clock(self) -> None:
        seconds, ns = divmod(self._now, 1_000_000_000)
        self._clock_topic.publish(Clock(clock=Time(sec=seconds, nanosec=ns)))

    def close(self) -> None:
        """Stop to play, and finish the recording."""
        self._closing.set()
        self._thread.join()
        if self._recorded is not None:
            self._recorded.__exit__(None, None, None)


def main(args: list[str] | None = None) -> int:
    """Play until the bag ends or the node is interrupted; return the exit code."""
    return run(BagPlayer, args)


if __name__ == '__main__':
    sys.exit(main())
