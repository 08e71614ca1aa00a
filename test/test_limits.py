"""Limits bound what is published against where the robot is measured to be."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from diffusion_policy_rt.runtime.limits import Limits

LOW, HIGH, RATE = np.array([-1.0, -2]), np.array([1.0, 2]), np.array([0.5, 4])
LIMITS = Limits(LOW, HIGH, RATE)
actions = arrays(float, st.tuples(st.integers(1, 6), st.just(2)), elements=st.floats(-9, 9))
inside = st.tuples(st.floats(-1, 1), st.floats(-2, 2)).map(np.array)
steps = st.floats(0.01, 1)


def apply(limits, actions, measured, step):
    return limits.course(actions, step).rest(0, len(actions), measured, step)


@given(actions, inside, steps)
def test_bounded_actions_keep_position_and_rate_from_the_measured_state_on(chunk, measured, step):
    bounded = apply(LIMITS, chunk, measured, step)
    assert (bounded >= LOW).all() and (bounded <= HIGH).all()
    moves = np.abs(np.diff(np.vstack((measured, bounded)), axis=0))
    assert (moves <= RATE * step + 1e-9).all()


@given(actions, inside, steps)
def test_bounding_twice_changes_nothing_more(chunk, measured, step):
    once = apply(LIMITS, chunk, measured, step)
    np.testing.assert_array_equal(apply(LIMITS, once, measured, step), once)


@given(actions, inside, steps)
def test_the_actions_given_are_left_as_they_are(chunk, measured, step):
    before = chunk.copy()
    apply(LIMITS, chunk, measured, step)
    np.testing.assert_array_equal(chunk, before)


@given(actions, inside, steps)
def test_no_limits_change_nothing(chunk, measured, step):
    np.testing.assert_array_equal(apply(Limits.none(2), chunk, measured, step), chunk)


def test_what_is_not_measured_bounds_nothing_but_the_next_action():
    bounded = apply(LIMITS, np.array([[1.0, 2], [-1, -2]]), np.array([np.nan, 0]), 0.1)
    np.testing.assert_allclose(bounded, [[1, 0.4], [0.95, 0]])
    unmeasured = apply(LIMITS, np.array([[1.0, 2], [-1, -2]]), np.full(2, np.nan), 0.1)
    np.testing.assert_allclose(unmeasured, [[1, 2], [0.95, 1.6]])


def test_a_rate_without_positions_bounds_only_the_rate():
    free = np.full(2, np.inf)
    bounded = apply(Limits(-free, free, np.array([1, np.inf])),
                    np.array([[50.0, 50]]), np.array([10.0, 10]), 0.1)
    np.testing.assert_allclose(bounded, [[10.1, 50]])
