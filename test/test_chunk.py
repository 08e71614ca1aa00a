"""Actions are executed by due time, whatever the plans' latency was."""

import numpy as np
from fakes import MS
from hypothesis import given
from hypothesis import strategies as st

from diffusion_policy_rt.runtime.chunk import Chunk, splice

STEP = 100 * MS


def chunk(stamp, horizon=8, n_obs=2, step=STEP):
    """Return a chunk whose actions are their own due times."""
    start = stamp - (n_obs - 1) * step
    due = start + step * np.arange(horizon)
    return Chunk(start, step, due[:, None], stamp, 1)


@given(st.integers(0, 10**12), st.integers(1, 10**9), st.integers(-10**10, 10**10))
def test_the_action_due_now_is_never_more_than_half_a_step_away(stamp, step, late):
    made = chunk(stamp, step=step)
    now = stamp + late
    due = made.start_ns + made.index(now) * step
    assert 2 * abs(due - now) <= step


def test_the_action_at_n_obs_minus_1_is_due_at_the_observation():
    assert chunk(5 * STEP).index(5 * STEP) == 1
    assert chunk(5 * STEP, n_obs=4).index(5 * STEP) == 3


def test_of_two_actions_equally_near_the_later_is_due():
    made = chunk(STEP)
    assert made.index(STEP + 50 * MS - 1) == 1 and made.index(STEP + 50 * MS) == 2


def test_the_rest_begins_with_the_action_due_and_ends_with_the_chunk():
    made = chunk(STEP)
    assert made.rest(STEP).ravel().tolist() == [k * STEP for k in range(1, 8)]
    assert made.rest(7 * STEP).ravel().tolist() == [7 * STEP]
    assert made.rest(8 * STEP).shape == (0, 1)


def test_the_actions_of_a_chunk_cannot_be_written():
    assert not chunk(STEP).actions.flags.writeable


def test_the_newer_observation_wins_whichever_plan_ends_first():
    old, new = chunk(STEP), chunk(2 * STEP)
    assert splice(old, new, 3 * STEP) is new and splice(new, old, 3 * STEP) is new
    assert splice(None, old, STEP) is old


def test_a_plan_that_came_too_late_to_have_an_action_left_is_not_followed():
    old, late = chunk(STEP, horizon=30), chunk(2 * STEP)
    assert splice(old, late, 9 * STEP) is old
    assert splice(old, late, 8 * STEP) is late


def test_a_late_chunk_is_entered_at_its_due_time_not_at_its_head():
    now = 4 * STEP
    spliced = splice(chunk(0), chunk(STEP), now)
    assert spliced.rest(now)[0, 0] == now


@given(st.lists(st.integers(0, 1200), min_size=1, max_size=30), st.integers(20, 130))
def test_no_latency_executes_an_action_more_than_half_a_step_from_its_due_time(latencies, period):
    """Plans start at every tick, and arrive after their latency [ms], in any order."""
    arriving = [(k * period + latency, k * period) for k, latency in enumerate(latencies)]
    current = None
    for tick in range(0, len(latencies) * period + 1500, period):
        for _, stamp in sorted(a for a in arriving if tick - period < a[0] <= tick):
            current = splice(current, chunk(stamp * MS), tick * MS)
        rest = current.rest(tick * MS) if current is not None else []
        assert not len(rest) or 2 * abs(rest[0, 0] - tick * MS) <= STEP


@given(st.lists(st.integers(0, 500), min_size=2, max_size=20))
def test_under_any_latency_that_a_chunk_covers_each_control_step_has_its_action(latencies):
    arriving = [(k * 100 + latency, k * 100) for k, latency in enumerate(latencies)]
    current = chunk(0)
    executed = []
    for tick in range(0, len(latencies) * 100, 100):
        for arrival, stamp in sorted(arriving):
            if tick - 100 < arrival <= tick:
                current = splice(current, chunk(stamp * MS), tick * MS)
        executed.append(current.rest(tick * MS)[0, 0] // MS)
    assert executed == list(range(0, len(latencies) * 100, 100))
