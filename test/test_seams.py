"""Where one chunk takes over: how far it jumps is measured, and a blend takes the jump away."""

import numpy as np
import pytest
from fakes import START, STEP, feed, make_loop, tiny_spec
from hypothesis import given
from hypothesis import strategies as st

from diffusion_policy_rt.errors import SpecError
from diffusion_policy_rt.runtime.chunk import Chunk, blend
from diffusion_policy_rt.runtime.seams import Seams


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


def test_a_blend_goes_over_evenly_from_what_is_due_by_both():
    old, new = chunk([0, 1, 2, 3, 4]), chunk([10, 10, 10, 10, 10], 10, 10)
    assert blend(old, new, 20, 3).actions[:, 0].tolist() == [10, 4, 6.5, 8.5, 10]


@given(st.integers(0, 12), st.integers(-5, 90), st.integers(-4, 9))
def test_a_blend_lies_between_both_and_touches_nothing_else(count, now, ahead):
    old, new = chunk(range(6)), chunk([50] * 6, 10 * ahead, 10 * ahead)
    made = blend(old, new, now, count).actions[:, 0]
    first = max(0, new.index(now))
    assert (made[:first] == 50).all() and (made[first + count:] == 50).all()
    assert ((made >= 0) & (made <= 50)).all()
    for i in range(first, min(6, first + count)):
        assert (made[i] < 50) == (0 <= i + ahead < 6)


def test_a_loop_that_blends_jumps_less_and_measures_it():
    jumps = []
    for steps in (0, 4):
        loop = make_loop(blend_steps=steps)
        feed(loop, START)
        loop.plan(START)
        for k in range(1, 6):
            feed(loop, START + k * STEP)
            loop.plan(START + k * STEP)
        jumps.append(loop.seams.figures()['seam_jump.p50'])
    assert jumps[1] < jumps[0]


def test_a_policy_that_is_told_its_prefix_is_not_blended():
    with pytest.raises(SpecError, match='set blend_steps to 0'):
        make_loop(tiny_spec(prefix=2), blend_steps=1)
