"""Of a trajectory in CDR what is due first: decoding all points costs as much as a small network.

CDR (OMG DDS-XTypes 1.3, section 7.4.1): a value stands at a multiple of its size from the end of
the encapsulation, which are the first four bytes; strings and sequences follow their lengths.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from diffusion_policy_rt.ros.salvage import TYPES

TRAJECTORY = 'trajectory_msgs/msg/JointTrajectory'
ENCAPSULATION = 4
NOTHING = np.empty(0)
Stamp, Header, Trajectory, Point, Duration = (TYPES.types[name] for name in (
    'builtin_interfaces/msg/Time', 'std_msgs/msg/Header', TRAJECTORY,
    'trajectory_msgs/msg/JointTrajectoryPoint', 'builtin_interfaces/msg/Duration'))


def trajectory_head(raw: bytes) -> Any:
    """Return a trajectory with the positions of its first point alone.

    Raises struct.error or ValueError for one that is cut off before their end.
    """
    order = '<' if raw[1] else '>'
    integer = struct.Struct(f'{order}I')
    stamp = struct.unpack_from(f'{order}iI', raw, ENCAPSULATION)
    frame, at = _string(raw, ENCAPSULATION + 8, integer)
    count, = integer.unpack_from(raw, at)
    at, names = at + 4, []
    for _ in range(count):
        name, at = _string(raw, at, integer)
        names.append(name)
    points = [_point(raw, at + 4, integer, order)] if integer.unpack_from(raw, at)[0] else []
    return Trajectory(Header(Stamp(*stamp), frame), names, points)


def _string(raw: bytes, at: int, integer: struct.Struct) -> tuple[str, int]:
    """Return the string at `at`, and where an integer may follow."""
    size, = integer.unpack_from(raw, at)
    end = at + 4 + size
    if not 0 < size <= len(raw) - at - 4:
        raise ValueError('a string of CDR is longer than its message')
    return str(raw[at + 4:end - 1], 'utf-8'), (end + 3) & -4


def _point(raw: bytes, at: int, integer: struct.Struct, order: str) -> Any:
    count, = integer.unpack_from(raw, at)
    begin = ENCAPSULATION + (at + 4 - ENCAPSULATION + 7 & -8)
    values = np.frombuffer(raw, f'{order}f8', count, begin) if count else NOTHING
    return Point(values, NOTHING, NOTHING, NOTHING, Duration(0, 0))
