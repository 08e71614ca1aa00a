"""Records topics of a running system into a bag, as they come from the wire."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from diffusion_policy_rt.ros.bag import BagWriter, qos


@dataclass(frozen=True)
class Topic:
    """A topic to record."""

    name: str
    message: type
    """The ROS message class."""
    reliable: bool = True
    latched: bool = False

    @property
    def type_name(self) -> str:
        """The type as bags write it, such as `sensor_msgs/msg/Image`."""
        package, *_ = self.message.__module__.split('.')
        return f'{package}/msg/{self.message.__name__}'


def record(node: Node, topics: list[Topic], bag: BagWriter,
           now_ns: Callable[[], int]) -> dict[str, int]:
    """Hand every message of the topics to the bag, undecoded; return the counts, which go on."""
    counts = {topic.name: 0 for topic in topics}

    def store(name: str, data: bytes) -> None:
        bag.write(name, now_ns(), data)
        counts[name] += 1

    for topic in topics:
        bag.add_topic(topic.name, topic.type_name, qos(topic.reliable, topic.latched))
        profile = QoSProfile(
            depth=100,
            reliability=ReliabilityPolicy.RELIABLE if topic.reliable
            else ReliabilityPolicy.BEST_EFFORT,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if topic.latched
            else DurabilityPolicy.VOLATILE)
        node.create_subscription(topic.message, topic.name, partial(store, topic.name), profile,
                                 raw=True)
    return counts


class Recorder(Node):
    """A node that records."""

    def __init__(self, topics: list[Topic], bag: BagWriter) -> None:
        super().__init__('recorder')
        self.counts = record(self, topics, bag, lambda: self.get_clock().now().nanoseconds)
