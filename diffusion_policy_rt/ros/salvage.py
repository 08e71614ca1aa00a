"""What can still be read of a bag that was cut off: each message up to the damage.

The rosbags library reads by the index at the end of a file, which a recorder that was killed
never wrote.
"""

from __future__ import annotations

import sqlite3
import struct
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from rosbags.highlevel import AnyReaderError
from rosbags.rosbag2 import ReaderError
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, TypesysError, get_types_from_msg, get_typestore

TYPES = get_typestore(Stores.ROS2_JAZZY)
MCAP, SQLITE = b'\x89MCAP0\r\n', b'SQLite format 3\0'
SCHEMA, CHANNEL, MESSAGE, CHUNK = 3, 4, 5, 6
"""Opcodes of mcap records."""


class CutError(Exception):
    """A file ends, or is damaged, in the middle of something."""


DAMAGES = (CutError, AnyReaderError, ReaderError, SerdeError, TypesysError, sqlite3.DatabaseError,
           ValueError, KeyError, IndexError, struct.error, EOFError, RuntimeError)
"""What reading a damaged bag raises, in whatever library."""


class Connection(NamedTuple):
    """A topic of a damaged file."""

    topic: str
    msgtype: str
    msgcount: int = 0
    """Not known before the file was read."""


class Salvage:
    """Reads a damaged file from its start; it offers what of AnyReader a `Bag` asks for."""

    message_count = start_time = end_time = 0  # not known before the file was read

    def __init__(self, read: Callable[[], Iterator[tuple[Connection, int, bytes]]],
                 definitions: dict[str, str]) -> None:
        self._read = read
        self.typestore = get_typestore(Stores.ROS2_JAZZY)
        for name, text in definitions.items():
            if name not in self.typestore.fielddefs:
                with suppress(TypesysError):  # such as of a service's events
                    self.typestore.register(get_types_from_msg(text, name))
        self.connections: list[Connection] = []

    def messages(self, wanted: Collection[Connection]) -> Iterator[tuple[Connection, int, bytes]]:
        """Yield connection, stamp [ns] and CDR of what is wanted; raises at the damage."""
        for connection, stamp, raw in self._read():
            if connection in wanted:
                yield connection, stamp, raw

    def deserialize(self, raw: bytes, msgtype: str) -> Any:
        """Return the message."""
        return self.typestore.deserialize_cdr(raw, msgtype)

    def close(self) -> None:
        """Nothing is held open."""


def salvage(path: Path) -> Salvage | None:
    """Return a reader of a damaged mcap or sqlite3 file; None where nothing can be read."""
    try:
        if path.is_dir():
            path = next(f for kind in ('*.mcap', '*.db3') for f in sorted(path.glob(kind)))
        with path.open('rb') as file:
            magic = file.read(16)
    except (OSError, StopIteration):
        return None
    definitions: dict[str, str] = {}
    read: Callable[[], Iterator[tuple[Connection, int, bytes]]]
    if magic.startswith(MCAP):
        def read() -> Iterator[tuple[Connection, int, bytes]]:
            return mcap_messages(path, definitions)
    elif magic == SQLITE:
        def read() -> Iterator[tuple[Connection, int, bytes]]:
            return sqlite_messages(path)
    else:
        return None
    found: dict[Connection, None] = {}
    try:
        for connection, _, _ in read():
            found[connection] = None
    except DAMAGES:
        pass
    made = Salvage(read, definitions)
    made.connections = list(found)
    return made if found else None


# -- sqlite3 -----------------------------------------------------------------------------------

def sqlite_messages(path: Path) -> Iterator[tuple[Connection, int, bytes]]:
    """Yield what a table scan finds, in order of writing; raises at the damage."""
    database = sqlite3.connect(f'file:{path}?immutable=1', uri=True)
    try:
        database.execute('PRAGMA writable_schema = ON')  # else a file cut short is not looked at
        topics = {key: Connection(name, kind) for key, name, kind in database.execute(
            'SELECT id, name, type FROM topics')}
        for key, stamp, raw in database.execute(
                'SELECT topic_id, timestamp, data FROM messages NOT INDEXED'):
            yield topics[key], stamp, raw
    finally:
        database.close()


# -- mcap --------------------------------------------------------------------------------------

def mcap_messages(path: Path,
                  definitions: dict[str, str]) -> Iterator[tuple[Connection, int, bytes]]:
    """Yield the messages of the data section, chunk by chunk; raises CutError at the damage."""
    schemas: dict[int, str] = {}
    channels: dict[int, Connection] = {}
    with path.open('rb') as file:
        file.read(len(MCAP))
        while True:
            code, data, whole = record(file.read)
            parts = records(unpack_chunk(data, whole)) if code == CHUNK else [(code, data)]
            for inner, part in parts if whole or code == CHUNK else ():
                yield from mcap_record(inner, part, schemas, channels, definitions)
            if not whole:
                raise CutError('it ends in the middle of a record')


def record(read: Callable[[int], bytes]) -> tuple[int, bytes, bool]:
    """Return the opcode and the content of the next record, and whether it is whole."""
    head = read(9)
    if len(head) < 9:
        raise CutError('it ends before its index')
    size = struct.unpack('<Q', head[1:])[0]
    data = read(size)
    return head[0], data, len(data) == size


def records(chunk: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the whole records at the start of an unpacked chunk."""
    at = 0
    while at + 9 <= len(chunk):
        end = at + 9 + struct.unpack_from('<Q', chunk, at + 1)[0]
        if end > len(chunk):
            return
        yield chunk[at], chunk[at + 9:end]
        at = end


def unpack_chunk(data: bytes, whole: bool) -> bytes:
    """Return the records of a chunk, unpacked as far as it goes.

    Raises CutError where a whole chunk does not fit its checksum.
    """
    crc, length = struct.unpack_from('<II', data, 24)
    chunk = _unpack(data[32:32 + length].decode(), data[32 + length + 8:])
    if whole and crc and zlib.crc32(chunk) != crc:
        raise CutError('the checksum of a chunk is wrong')
    return chunk


def _unpack(kind: str, packed: bytes) -> bytes:
    if kind == 'lz4':
        from lz4.frame import LZ4FrameDecompressor
        return LZ4FrameDecompressor().decompress(packed)
    if kind == 'zstd':
        from backports.zstd import ZstdDecompressor
        return ZstdDecompressor().decompress(packed)
    if kind:
        raise CutError(f'compression {kind!r} is not known')
    return packed


def mcap_record(code: int, data: bytes, schemas: dict[int, str], channels: dict[int, Connection],
                definitions: dict[str, str]) -> Iterator[tuple[Connection, int, bytes]]:
    """Note schemas and channels; yield a message."""
    if code == MESSAGE:
        channel, _, stamp = struct.unpack_from('<HIQ', data)
        yield channels[channel], stamp, data[22:]
    elif code == SCHEMA:
        name, encoding, text = strings(data, 2, 3)
        schemas[struct.unpack_from('<H', data)[0]] = name
        if encoding == 'ros2msg':
            definitions[name] = text
    elif code == CHANNEL:
        key, schema = struct.unpack_from('<HH', data)
        channels[key] = Connection(strings(data, 4, 1)[0], schemas.get(schema, ''))


def strings(data: bytes, at: int, count: int) -> list[str]:
    """Return strings that each follow their length."""
    found = []
    for _ in range(count):
        size = struct.unpack_from('<I', data, at)[0]
        found.append(data[at + 4:at + 4 + size].decode())
        at += 4 + size
    return found
