"""Write and read ROS 2 bags (mcap), through the rosbags library: no ROS installation needed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from rosbags.highlevel import AnyReader
from rosbags.interfaces import (
    Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime)
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from diffusion_policy_rt.errors import DataError

TYPES = get_typestore(Stores.ROS2_JAZZY)
FOREVER = QosTime(2147483647, 4294967295)


class Message(NamedTuple):
    """One recorded message."""

    topic: str
    stamp_ns: int
    """Time at which it was recorded [ns]."""
    data: Any
    """The decoded message; fields are named as in ROS."""


def qos(reliable: bool, latched: bool = False) -> Qos:
    """Return the profile a player should offer for a topic."""
    return Qos(QosHistory.KEEP_LAST, 10,
               QosReliability.RELIABLE if reliable else QosReliability.BEST_EFFORT,
               QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE,
               FOREVER, FOREVER, QosLiveliness.AUTOMATIC, FOREVER, False)


class BagWriter:
    """Writes serialised messages; a context manager, so that no bag is left truncated."""

    def __init__(self, folder: Path) -> None:
        if folder.exists():
            raise DataError(f'{folder} exists; choose another folder for the bag')
        folder.parent.mkdir(parents=True, exist_ok=True)
        self._writer = Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP)
        self._connections: dict[str, Any] = {}

    def __enter__(self) -> BagWriter:
        self._writer.open()
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def add_topic(self, topic: str, msgtype: str, profile: Qos) -> None:
        """Declare a topic, `msgtype` as in `sensor_msgs/msg/Image`."""
        self._connections[topic] = self._writer.add_connection(
            topic, msgtype, typestore=TYPES, offered_qos_profiles=[profile])

    def write(self, topic: str, stamp_ns: int, data: bytes) -> None:
        """Write one message in CDR."""
        self._writer.write(self._connections[topic], stamp_ns, data)


def read_bag(folder: Path, *topics: str) -> Iterator[Message]:
    """Yield the messages of these topics (all where none is named) in order of recording."""
    try:
        with AnyReader([folder], default_typestore=TYPES) as reader:
            wanted = [c for c in reader.connections if not topics or c.topic in topics]
            for connection, stamp, raw in reader.messages(wanted) if wanted else ():
                yield Message(connection.topic, stamp,
                              reader.deserialize(raw, connection.msgtype))
    except OSError as error:
        raise DataError(f'{folder} is no bag: {error}') from error
