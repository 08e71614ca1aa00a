"""Messages and requests bent at random: what cameras, drivers and people may send."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from sensor_msgs.msg import Image, JointState

from diffusion_policy_rt.ros.param import Param

SLOWEST = 20.0
"""Lowest control rate that is drawn: a node that ticks seldom would seem to hang [Hz]."""
Bend = Callable[[Any, np.random.Generator], None]


def _stamp(seconds: int) -> Bend:
    def bend(msg: Any, rng: np.random.Generator) -> None:
        msg.header.stamp = Time(sec=max(0, msg.header.stamp.sec + seconds))
    return bend


def _no_stamp(msg: Any, rng: np.random.Generator) -> None:
    msg.header.stamp = Time()


STAMPS: tuple[Bend, ...] = (_no_stamp, _stamp(-3600), _stamp(3600), _stamp(-1), _stamp(2**30))


def _encoding(msg: Image, rng: np.random.Generator) -> None:
    msg.encoding = str(rng.choice(['', 'rgb8', 'bgr8', 'mono8', 'rgba8', '32FC1', 'yuv422', 'x']))


def _shape(msg: Image, rng: np.random.Generator) -> None:
    msg.height, msg.width, msg.step = (int(v) for v in rng.choice([0, 1, 95, 96, 97, 2**31], 3))


def _whole(msg: Image, rng: np.random.Generator) -> None:
    rows, columns = (int(v) for v in rng.integers(1, 300, 2))
    msg.height, msg.width, msg.step = rows, columns, 3 * columns
    msg.data = array('B', rng.bytes(rows * msg.step))


def _cut(msg: Image, rng: np.random.Generator) -> None:
    msg.data = msg.data[:int(rng.integers(0, len(msg.data) + 1))]


def _black(msg: Image, rng: np.random.Generator) -> None:
    msg.data = array('B', bytes(len(msg.data)))


def _value(msg: JointState, rng: np.random.Generator) -> None:
    if msg.position:
        at = int(rng.integers(len(msg.position)))
        msg.position[at] = float(rng.choice([math.nan, math.inf, -math.inf, 1e308, -1e30, 0.0]))


def _name(msg: JointState, rng: np.random.Generator) -> None:
    msg.name = [*msg.name[1:], str(rng.choice(['', 'elbow', *msg.name[:1]]))]


def _short(msg: JointState, rng: np.random.Generator) -> None:
    msg.position = msg.position[:-1]


def _empty(msg: JointState, rng: np.random.Generator) -> None:
    msg.name, msg.position = [], []


BENDS: dict[type, tuple[Bend, ...]] = {
    Image: (*STAMPS, _encoding, _shape, _whole, _cut, _black),
    JointState: (*STAMPS, _value, _name, _short, _empty)}


def bend(msg: Any, rng: np.random.Generator) -> None:
    """Bend an Image or JointState in one to three ways that are drawn."""
    for at in rng.integers(len(BENDS[type(msg)]), size=rng.integers(1, 4)):
        BENDS[type(msg)][at](msg, rng)


def setting(params: Sequence[Param], rng: np.random.Generator) -> tuple[str, Any]:
    """Draw a live parameter, but never `enable_output`, and a value that may not fit."""
    live = [param for param in params if param.live and param.name != 'enable_output']
    param = live[rng.integers(len(live))]
    low, high = float(param.low or 0), float(param.high or 0)
    value = float(rng.choice([low, high, -1.0, 0.02, 0.3, 1.0, 5.0, math.nan, math.inf,
                              rng.uniform(low, high)]))
    if not math.isfinite(value):
        return param.name, value
    if param.name == 'control_rate' and 0 < value < SLOWEST:
        value = SLOWEST
    return param.name, int(value) if isinstance(param.default, int) else value
