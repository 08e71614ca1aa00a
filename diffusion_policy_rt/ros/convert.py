"""Messages to frames and states. Duck-typed: a message from rclpy and one from a bag are alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np

from diffusion_policy_rt.errors import FrameError
from diffusion_policy_rt.runtime.frame import Frame
from diffusion_policy_rt.spec import CameraSpec

ENCODINGS: dict[str, tuple[int, int | None]] = {
    'rgb8': (3, None), 'bgr8': (3, cv2.COLOR_BGR2RGB), 'rgba8': (4, cv2.COLOR_RGBA2RGB),
    'bgra8': (4, cv2.COLOR_BGRA2RGB), 'mono8': (1, cv2.COLOR_GRAY2RGB)}
"""Accepted encoding -> bytes per pixel, and OpenCV's code for the way to RGB."""
FUTURE_NS = 100_000_000
"""Lead of a stamp over its arrival above which the two clocks cannot be the same [ns]."""
JPEG, PNG = (b'\xff\xd8', b'\xff\xd9'), (b'\x89PNG\r\n\x1a\n', b'IEND\xaeB`\x82')
"""First and last bytes of a whole file."""


def stamp_ns(header: Any, arrival_ns: int) -> int:
    """Return a header's stamp [ns]; the arrival where the stamp is 0.

    Raises FrameError for a stamp from the future: its ages would be wrong for as long as it lasts.
    """
    stamp = header.stamp.sec * 1_000_000_000 + header.stamp.nanosec
    if not stamp:
        return arrival_ns
    if stamp > arrival_ns + FUTURE_NS:
        raise FrameError('its stamp lies in the future; synchronise the clocks (chrony, PTP), or '
                         'set use_sim_time on all nodes or on none')
    return stamp


# -- images ------------------------------------------------------------------------------------

def check_image(msg: Any) -> None:
    """Raise FrameError unless the sensor_msgs/Image is of an accepted encoding and whole."""
    if msg.encoding not in ENCODINGS:
        raise FrameError(f'encoding {msg.encoding!r} is not accepted; use one of '
                         f'{", ".join(ENCODINGS)}')
    row = msg.width * ENCODINGS[msg.encoding][0]
    if not msg.width or not msg.height or msg.step < row:
        raise FrameError(f'a {msg.width}x{msg.height} {msg.encoding} image cannot have rows of '
                         f'{msg.step} bytes; correct width, height or step in its driver')
    if len(msg.data) != msg.step * msg.height:
        raise FrameError(f'a {msg.width}x{msg.height} {msg.encoding} image needs '
                         f'{msg.step * msg.height} bytes, found {len(msg.data)}; '
                         'correct its driver')


def image_to_rgb(msg: Any) -> np.ndarray:
    """Return the pixels of a sensor_msgs/Image, uint8 [H, W, 3] RGB; rgb8 is not copied."""
    check_image(msg)
    channels, code = ENCODINGS[msg.encoding]
    pixels = np.ndarray((msg.height, msg.width, channels), np.uint8, np.frombuffer(
        msg.data, np.uint8), strides=(msg.step, channels, 1))  # the step skips the row padding
    return pixels if code is None else cv2.cvtColor(pixels, code)


def compressed_to_rgb(msg: Any) -> np.ndarray:
    """Return the pixels of a sensor_msgs/CompressedImage (jpeg or png), uint8 [H, W, 3] RGB."""
    check_compressed(msg)
    pixels = cv2.imdecode(np.frombuffer(msg.data, np.uint8), cv2.IMREAD_COLOR)
    if pixels is None:
        raise FrameError(f'compressed image of format {msg.format!r} is damaged')
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def check_compressed(msg: Any) -> None:
    """Raise FrameError unless the data begin and end like a jpeg or png file.

    OpenCV fills the missing part of a truncated file with grey and reports no error.
    """
    begin, end = bytes(msg.data[:8]), bytes(msg.data[-64:]).rstrip(b'\0')
    kinds = [kind for kind in (JPEG, PNG) if begin.startswith(kind[0])]
    if not kinds:
        raise FrameError(f'compressed image of format {msg.format!r} is not accepted; use jpeg or '
                         'png')
    if not end.endswith(kinds[0][1]):
        raise FrameError(f'compressed image of format {msg.format!r} is truncated')


def image_to_frame(camera: CameraSpec, msg: Any, arrival_ns: int) -> Frame:
    """Make a frame of a sensor_msgs/Image: its header is checked now, its pixels read on demand.

    Raises FrameError for an image that is malformed or smaller than the policy's.
    """
    check_image(msg)
    if msg.height < camera.height or msg.width < camera.width:
        raise FrameError(f'a {msg.width}x{msg.height} image is smaller than the {camera.width}x'
                         f'{camera.height} that the policy takes; raise the camera\'s resolution')
    return Frame(camera.name, stamp_ns(msg.header, arrival_ns), arrival_ns,
                 lambda: image_to_rgb(msg))


def compressed_to_frame(camera: CameraSpec, msg: Any, arrival_ns: int) -> Frame:
    """Make a frame of a sensor_msgs/CompressedImage; it is decompressed on demand."""
    check_compressed(msg)
    return Frame(camera.name, stamp_ns(msg.header, arrival_ns), arrival_ns,
                 lambda: compressed_to_rgb(msg))


TO_FRAME: dict[str, Callable[[CameraSpec, Any, int], Frame]] = {
    'raw': image_to_frame, 'compressed': compressed_to_frame}
"""Transport -> the conversion of its messages."""


# -- states ------------------------------------------------------------------------------------

def joint_state_to_values(names: Sequence[str], msg: Any) -> np.ndarray:
    """Return the positions of the named joints of a sensor_msgs/JointState, float64 [S].

    Joints are matched by name; others may be there, in any order.
    """
    if len(msg.position) < len(msg.name):
        raise FrameError(f'a joint state of {len(msg.name)} names has {len(msg.position)} '
                         'positions; correct its driver')
    positions = dict(zip(msg.name, msg.position))
    missing = [name for name in names if name not in positions]
    if missing:
        raise FrameError(f'joint {missing[0]} is missing from the joint state; it holds '
                         f'{", ".join(positions) or "none"}')
    return np.array([positions[name] for name in names], float)
