"""A bag of ROS 2 some of whose definitions the rosbags library does not know how to read.

Recorders write down the types of all topics, those of the events of services and actions too
(`srv` and `action` definitions, or their parts). rosbags then refuses the whole bag.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from rosbags.interfaces import Connection, MessageDefinition, MessageDefinitionFormat
from rosbags.interfaces.typing import Typesdict
from rosbags.rosbag2 import Reader
from rosbags.typesys import (
    Stores, TypesysError, get_types_from_idl, get_types_from_msg, get_typestore)

from diffusion_policy_rt.ros.salvage import TYPES


class LenientReader:
    """What of AnyReader a `Bag` asks for; a message of an unknown type raises KeyError."""

    is2 = True

    def __init__(self, path: Path) -> None:
        """Open the bag; raises what rosbags raises for one that is damaged, or no bag."""
        self._reader = Reader(path)
        self._reader.open()
        self.connections = self._reader.connections
        types: Typesdict = dict(TYPES.fielddefs)
        for connection in self.connections:
            types |= definitions(connection.msgdef, connection.msgtype)
        self.typestore = get_typestore(Stores.EMPTY)
        self.typestore.register(types)

    @property
    def message_count(self) -> int:
        """Messages of all topics."""
        return self._reader.message_count

    @property
    def start_time(self) -> int:
        """Instant of the first message [ns]."""
        return self._reader.start_time

    @property
    def end_time(self) -> int:
        """Instant after the last message [ns]."""
        return self._reader.end_time

    def messages(self, wanted: Collection[Connection]) -> Iterator[tuple[Connection, int, bytes]]:
        """Yield connection, stamp [ns] and CDR of what is wanted."""
        return self._reader.messages(wanted)

    def deserialize(self, raw: bytes, msgtype: str) -> Any:
        """Return the message."""
        return self.typestore.deserialize_cdr(raw, msgtype)

    def close(self) -> None:
        """Close the files."""
        self._reader.close()


def definitions(told: MessageDefinition, msgtype: str) -> Typesdict:
    """Return the types of a definition; none where it is of another kind than a message."""
    try:
        if told.format == MessageDefinitionFormat.MSG:
            return get_types_from_msg(told.data, msgtype)
        if told.format == MessageDefinitionFormat.IDL:
            return get_types_from_idl(told.data)
    except TypesysError:
        pass
    return {}
