"""A camera of a simulated robot: its pictures as messages, at a rate of its own."""

from __future__ import annotations

import array
from typing import Any

import cv2
import numpy as np
from builtin_interfaces.msg import Time
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image

from diffusion_policy_rt.errors import SpecError
from diffusion_policy_rt.sim.tasks import SimulatedRobot, Task


class SimCamera:
    """Publishes on camera/<name>/image_raw, and compressed where the node's parameters say so."""

    def __init__(self, node: Node, task: Task, name: str) -> None:
        """Take the parameters of the node; SpecError for a rate that no tick of it has."""
        self._name = name
        self._width, self._height, compressed, rate = (
            node.get_parameter(parameter).value for parameter in (
                'width', 'height', 'compressed', f'cameras.{name}.rate'))
        ticks = task.rate * task.substeps
        if rate <= 0 or (ticks / rate) % 1:
            raise SpecError(f'cameras.{name}.rate is {rate:g} Hz; it must divide {ticks}')
        self._every = round(ticks / rate)
        topic = f'camera/{name}/image_raw'
        self._raw = node.create_publisher(Image, topic, 1)
        self._compressed = node.create_publisher(
            CompressedImage, f'{topic}/compressed', 1) if compressed else None

    def observe(self, robot: SimulatedRobot, tick: int, stamp: Time) -> None:
        """Publish a picture where one is due at this tick."""
        if tick % self._every:
            return
        rgb = robot.look(self._name, self._width, self._height)
        image = to_message(rgb)
        image.header.stamp, image.header.frame_id = stamp, self._name
        self._raw.publish(image)
        if self._compressed is not None:
            png = CompressedImage(format='png', header=image.header)
            png.data.frombytes(cv2.imencode('.png', cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))[1])
            self._compressed.publish(png)


def to_message(rgb: np.ndarray) -> Any:
    """Make a message of uint8 [H, W, 3]."""
    rows, columns, _ = rgb.shape
    # assigning bytes or a memoryview would be copied value by value
    return Image(height=rows, width=columns, encoding='rgb8', step=3 * columns,
                 data=array.array('B', rgb.tobytes()))
