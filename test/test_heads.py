"""The head of a trajectory is what rosbags reads of the whole."""

import struct

import numpy as np
import pytest
from hypothesis import given, strategies as st

from diffusion_policy_rt.ros.bag import TYPES
from diffusion_policy_rt.ros.heads import (
    TRAJECTORY, Duration, Header, Point, Stamp, Trajectory, trajectory_head)

TEXT = st.text(st.characters(codec='utf-8', exclude_characters='\0'), max_size=9)
VALUES = st.lists(st.floats(width=64, allow_nan=False), max_size=4).map(np.array)
POINTS = st.lists(st.builds(Point, VALUES, VALUES, VALUES, VALUES, st.just(Duration(1, 2))),
                  max_size=3)
SECONDS = st.integers(-2**31, 2**31 - 1)
TRAJECTORIES = st.builds(Trajectory, st.builds(Header, st.builds(
    Stamp, SECONDS, st.integers(0, 10**9)), TEXT), st.lists(TEXT, max_size=3), POINTS)


@given(TRAJECTORIES, st.booleans())
def test_head_of_whole(whole, little):
    raw = bytes(TYPES.serialize_cdr(whole, TRAJECTORY, little_endian=little))
    head = trajectory_head(raw)
    assert head.header == whole.header and head.joint_names == whole.joint_names
    assert len(head.points) == min(1, len(whole.points))
    for ours, theirs in zip(head.points, whole.points):
        np.testing.assert_array_equal(ours.positions, theirs.positions)


@given(TRAJECTORIES.filter(lambda t: len(t.points) > 0), st.data())
def test_cut_off(whole, data):
    alone = Trajectory(whole.header, whole.joint_names, whole.points[:1])
    point = alone.points[0]
    point.velocities = point.accelerations = point.effort = np.empty(0)
    raw = bytes(TYPES.serialize_cdr(alone, TRAJECTORY))
    end = len(raw) - 4 * 3 - 8 - 8  # lengths of the others, a duration, and at most so much gap
    with pytest.raises((struct.error, ValueError, IndexError)):
        trajectory_head(raw[:data.draw(st.integers(0, max(0, end - 8)))])
