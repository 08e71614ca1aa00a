"""A trajectory in CDR, of which a tick fills in the positions alone.

Making its many parts and converting them costs more than sending them. `heads` tells the layout;
the middleware sends bytes as they are.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

LITTLE_ENDIAN = b'\0\1\0\0'
NANO = 1_000_000_000


class PackedTrajectory:
    """A JointTrajectory of K points, point i due (i + 1) x `step_ns`; its stamp is 0."""

    def __init__(self, joints: Sequence[str], frame_id: str, step_ns: int, points: int) -> None:
        self._body = bytearray(struct.pack('<iI', 0, 0))
        self._string(frame_id)
        self._integer(len(joints))
        for name in joints:
            self._string(name)
        self._integer(points)
        begins = [self._point(len(joints), (i + 1) * step_ns) for i in range(points)]
        self._data = bytearray(LITTLE_ENDIAN) + self._body
        stride = begins[1] - begins[0] if points > 1 else 8 * len(joints)
        self._positions = np.ndarray((points, len(joints)), '<f8', self._data,
                                     len(LITTLE_ENDIAN) + begins[0], (stride, 8))

    def of(self, actions: np.ndarray) -> bytes:
        """Return the message with these positions [K, A]."""
        self._positions[:] = actions
        return bytes(self._data)

    def _align(self, size: int) -> None:
        self._body += bytes(-len(self._body) % size)

    def _integer(self, value: int) -> None:
        self._align(4)
        self._body += struct.pack('<I', value)

    def _string(self, value: str) -> None:
        data = value.encode() + b'\0'
        self._integer(len(data))
        self._body += data

    def _point(self, joints: int, due_ns: int) -> int:
        """Add a point at zero; return where its positions begin."""
        self._integer(joints)
        self._align(8)
        begin = len(self._body)
        self._body += bytes(8 * joints)
        # velocities, accelerations and effort are empty
        self._body += struct.pack('<3IiI', 0, 0, 0, due_ns // NANO, due_ns % NANO)
        return begin
