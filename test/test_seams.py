"""Where one chunk takes over: how far it jumps is measured, and bounded."""

import dataclasses

import numpy as np
import pytest
from fakes import START, STEP, feed, make_loop, tiny_spec
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from diffusion_policy_rt.runtime.chunk import Chunk, Joint, join
from diffusion_policy_rt.runtime.seams import Seams
from diffusion_policy_rt.runtime.settings import LoopSettings


def chunk(values, start=0, stamp=0):
    return Chunk(start, 10, np.array(values, float)[:, None], stamp, 1)


def test_the_jump_is_from_the_action_that_was_due_to_the_first_of_the_new_chunk():
    seams = Seams((2.0,))
    assert seams.note(None, chunk([0, 1, 2]), 0) is None
    assert seams.note(chunk([0, 1, 2, 3]), chunk([0, 9, 7]), 10) == 4.5  # from 0 to 9
    assert seams.figures() == {'seam_jump.p50': 4.5, 'seam_jump.p99': 4.5,
                               'seam_jump_ratio': 4.5 / np.percentile([.5, .5, 1], 99)}


def test_without_an_action_on_either_side_there_is_no_seam():
    seams = Seams((1.0,))
    assert seams.note(chunk([0, 1]), chunk([5, 6], 90), 90) is None
    assert seams.note(chunk([0, 1]), chunk([5, 6]), 50) is None
    assert set(seams.figures().values()) == {None}


def joint(reach, count=4, scale=(1.0,)):
    return Joint(reach, count, np.array(scale))


def test_what_a_jump_has_beyond_the_reach_fades():
    old, new = chunk([0, 0, 0, 0]), chunk([90, 90, 10, 11, 12, 13, 14], 0, 10)
    made = join(old, new, 20, joint(2)).actions[:, 0]
    assert np.allclose(made, [90, 90, 2, 11 - 6, 12 - 4, 13 - 2, 14])


@pytest.mark.parametrize('old, reach, count', [
    (chunk([0, 0, 0]), 9, 4), (chunk([0, 0, 0]), 0, 4), (chunk([0, 0, 0]), 1, 0),
    (chunk([0], -100), 1, 4), (None, 1, 4)])
def test_a_chunk_that_jumps_no_farther_or_meets_none_is_left_alone(old, reach, count):
    new = chunk([0, 0, 9, 8, 7])
    assert join(old, new, 20, joint(reach, count)) is new


pairs = arrays(float, (8, 2), elements=st.floats(-9, 9))


@given(pairs, pairs, st.integers(1, 7), st.integers(1, 9), st.floats(.1, 9), st.floats(.1, 9))
def test_no_seam_jumps_farther_than_the_reach(a, b, first, count, scale, reach):
    how = joint(reach, count, (1.0, scale))
    made = join(Chunk(0, 10, a, 0, 1), Chunk(0, 10, b, 10, 1), 10 * first, how).actions
    changed = np.flatnonzero((made != b).any(1))
    assert not len(changed) or first <= changed[0] and changed[-1] < first + count
    before, wanted, got = a[first - 1], b[first], made[first]
    assert np.linalg.norm((got - before) / how.scale) <= reach * (1 + 1e-9)
    (x, y), (u, v) = got - before, wanted - before
    assert abs(x * v - y * u) < 1e-9  # the same way


def test_the_reach_is_the_settings_or_comes_from_the_bundles_stride():
    action = dataclasses.replace(tiny_spec().action, stride=0.5)
    assert LoopSettings().joint(action).reach == 0.5
    assert LoopSettings(seam_limit=0.2).joint(action).reach == 0.2
    assert LoopSettings().joint(tiny_spec().action).reach == 0


def test_a_loop_that_joins_jumps_less_and_measures_it():
    jumps = []
    for limit in (0, 0.1):
        loop = make_loop(seam_limit=limit)
        feed(loop, START)
        loop.plan(START)
        for k in range(1, 6):
            feed(loop, START + k * STEP)
            loop.plan(START + k * STEP)
        jumps.append(loop.seams.figures()['seam_jump.p50'])
    assert jumps[1] <= 0.1 + 1e-9 < jumps[0]
