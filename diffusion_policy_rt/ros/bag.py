"""Write ROS 2 bags and read all bags, through the rosbags library: no ROS installation needed."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rosbags.highlevel import AnyReader, AnyReaderError
from rosbags.interfaces import (
    Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime)
from rosbags.interfaces import Nodetype
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys.store import Typestore

from diffusion_policy_rt.errors import DataError
from diffusion_policy_rt.ros.heads import TRAJECTORY, trajectory_head
from diffusion_policy_rt.ros.lenient import LenientReader
from diffusion_policy_rt.ros.salvage import DAMAGES, TYPES, salvage

_COMPILED: dict[Any, Typestore] = {}
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


class Topic(NamedTuple):
    """What a bag says of one topic."""

    name: str
    msgtype: str
    messages: int
    """How many; 0 where a damaged file does not tell."""


class Bag:
    """A bag of ROS 2 (mcap, sqlite3; a folder or a file) or ROS 1 (.bag), open for reading.

    A damaged file is read as far as it goes: `damage` tells in one line what is wrong, before or
    after reading, and is '' for a bag that is whole. Raises DataError for what is no bag.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.damage = path, ''
        if path.is_dir() and not (path / 'metadata.yaml').is_file():
            path = only_file(path)
        try:
            self._reader: Any = opened(path)
        except (*DAMAGES, OSError) as error:
            self._salvage(path, error)

    def _salvage(self, path: Path, error: Exception) -> None:
        found = salvage(path)
        if found is None:
            raise DataError(f'{self.path} is no bag: {error}') from error
        self._reader, self.damage = found, f'{self.path} is damaged ({error})'

    def __enter__(self) -> Bag:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()

    @property
    def topics(self) -> list[Topic]:
        """All topics, by name."""
        counts: dict[tuple[str, str], int] = {}
        for c in self._reader.connections:
            key = c.topic, full_type(c.msgtype)
            counts[key] = counts.get(key, 0) + c.msgcount
        return [Topic(*key, count) for key, count in sorted(counts.items())]

    @property
    def span_ns(self) -> tuple[int, int]:
        """Instants of the first and the last message [ns]; equal where that is not known."""
        if not self._reader.message_count:
            return 0, 0
        return self._reader.start_time, self._reader.end_time

    def messages(self, *topics: str, heads: bool = False) -> Iterator[Message]:
        """Yield the messages of these topics in order of recording.

        Where none is named, those of all topics but of types that are not known. They are read as
        they are asked for; with `heads` no more of trajectories than the positions of their first
        points. Reading ends at the first damage, told in `damage`.
        """
        known = self._reader.typestore.fielddefs
        wanted = [c for c in self._reader.connections if (
            c.topic in topics if topics else full_type(c.msgtype) in known)]
        in_cdr = heads and getattr(self._reader, 'is2', True)
        try:
            for connection, stamp, raw in self._reader.messages(wanted) if wanted else ():
                kind = full_type(connection.msgtype)
                yield Message(connection.topic, stamp, trajectory_head(raw) if (
                    in_cdr and kind == TRAJECTORY) else self._reader.deserialize(raw, kind))
        except DAMAGES as error:
            self.damage = f'{self.path} is damaged ({error})'


def opened(path: Path) -> Any:
    """Return a reader of a bag; raises what rosbags raises for one that is damaged, or no bag."""
    try:
        reader: Any = AnyReader([path], default_typestore=TYPES)
        reader.open()
    except AnyReaderError:
        if path.suffix == '.bag':
            raise
        reader = LenientReader(path)
    key = reader.is2, frozenset((c.msgtype, c.msgdef) for c in reader.connections)
    # with the decoders that were made for these definitions before
    reader.typestore = _COMPILED.setdefault(key, reader.typestore)
    return reader


def to_cdr(msg: Any, msgtype: str) -> bytes:
    """Serialise a message of rclpy, or of rosbags, byte for byte the same on every machine.

    (rclpy.serialization leaves bytes of no meaning at the end.)
    """
    return bytes(TYPES.serialize_cdr(_plain(msg, msgtype), msgtype))


def _plain(msg: Any, msgtype: str) -> Any:
    """Return a message as one of rosbags, by the fields of its type."""
    _, fields = TYPES.fielddefs[msgtype]
    return TYPES.types[msgtype](**{name: _value(getattr(msg, name), kind)
                                   for name, kind in fields})


def _value(value: Any, kind: Any) -> Any:
    node, about = kind
    if node == Nodetype.NAME:
        return _plain(value, about)
    if node == Nodetype.BASE:
        return value
    inner, _ = about  # an array or a sequence, and its length or bound
    if inner[0] == Nodetype.NAME or inner[1][0] == 'string':
        return [_value(one, inner) for one in value]
    return np.asarray(value, inner[1][0])


@cache
def full_type(name: str) -> str:
    """Return a type's name as of today; before 2020 bags wrote sensor_msgs/Image."""
    package, _, rest = name.partition('/')
    return name if '/' in rest else f'{package}/msg/{rest}'


def only_file(folder: Path) -> Path:
    """Return the one storage file of a folder without metadata.yaml; DataError without one."""
    files = [f for kind in ('*.mcap', '*.db3', '*.bag') for f in sorted(folder.glob(kind))]
    if len(files) != 1:
        raise DataError(f'{folder} is no bag: it has no metadata.yaml and {len(files)} storage '
                        'files; run `ros2 bag reindex`, or give one of its files')
    return files[0]


def read_bag(folder: Path, *topics: str) -> Iterator[Message]:
    """Yield the messages of these topics (all where none is named) of a bag that is whole."""
    with Bag(folder) as bag:
        yield from bag.messages(*topics)
        if bag.damage:
            raise DataError(bag.damage)
