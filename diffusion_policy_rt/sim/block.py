"""Geometry of the block: the points by which the demonstrations record its pose, its middle."""

from __future__ import annotations

import numpy as np

KEYPOINTS = np.array([
    [9.270, 90.041], [-60.983, -1.187], [60.913, -1.393], [-0.271, 25.544], [-14.065, 122.816],
    [39.003, 32.857], [-39.966, 32.730], [-16.824, 62.863], [23.541, -1.700]])
"""The nine points of the published recordings (`keypoint`, [N, 9, 2]) in the block's frame [px].

The median over the 25 650 recorded rows of `keypoint` seen from the recorded pose. Placed by that
pose they are the recorded ones to 0.04 px RMS; ten rows are off by 1 to 2 px, nearly all the first
of an episode, where the simulator parts a tool and a block that overlap.
"""
GOAL = np.array([256.0, 256.0, np.pi / 4])
"""The pose that the block is to reach: x, y [px], angle [rad]."""
MIDDLE = np.array([0.0, 45.0])
"""The block's centre of gravity in its own frame [px]."""


def place(points: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """Move points [K, 2] of the block's frame to poses [..., 3] (x, y [px], angle [rad]).

    Returns float64 [..., K, 2] [px].
    """
    pose = np.asarray(pose, float)
    cos, sin = np.cos(pose[..., 2]), np.sin(pose[..., 2])
    turn = np.stack([np.stack([cos, sin], -1), np.stack([-sin, cos], -1)], -2)
    return points @ turn + pose[..., None, :2]


def keypoints(pose: np.ndarray) -> np.ndarray:
    """Return the recorded points of a block at pose [..., 3], float64 [..., 9, 2] [px]."""
    return place(KEYPOINTS, pose)


def middle(pose: np.ndarray) -> np.ndarray:
    """Return the centre of gravity of a block at pose [..., 3], float64 [..., 2] [px]."""
    return place(MIDDLE[None], pose)[..., 0, :]
