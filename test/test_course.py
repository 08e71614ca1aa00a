"""What is computed once per chunk has the bits, and the counters, of bounding it in every tick."""

from dataclasses import replace

import numpy as np
from fakes import START, STEP, tiny_spec
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from diffusion_policy_rt.runtime.chunk import Chunk
from diffusion_policy_rt.runtime.hands import Hands
from diffusion_policy_rt.runtime.limits import Limits
from diffusion_policy_rt.runtime.motion import Motion
from diffusion_policy_rt.runtime.observation import State
from diffusion_policy_rt.runtime.settings import LoopSettings
from diffusion_policy_rt.runtime.trace import Rung

SPEC = tiny_spec(state=replace(tiny_spec().state, names=('x', 'z', 'grip')))  # measures no `y`
SETTINGS = LoopSettings(control_rate=20.0)
eighths = st.integers(-40, 40).map(lambda n: n / 8)  # so that bounds are met exactly, too
values = eighths | st.floats(-5, 5)
shapes = st.tuples(st.integers(1, 9), st.just(2))
smooth = arrays(float, shapes, elements=st.floats(-0.2, 0.2)).map(lambda moves: moves.cumsum(0))
chunks = smooth | arrays(float, shapes, elements=values)
rates = arrays(float, 2, elements=st.sampled_from([0.5, 1.25, 4.0, np.inf]))
bounds = st.sampled_from([np.inf, 2.0, 0.0])
limits = st.builds(lambda low, high, rate: Limits(np.full(2, -low), np.full(2, 3 + high), rate),
                   bounds, bounds, rates)
places = arrays(float, 2, elements=values | st.just(np.nan))


def plain(limits, actions, measured, step_s, first_s):
    """Bound actions [K, A] row by row, as it was done in every tick."""
    bounded = np.clip(actions.astype(float), limits.low, limits.high)
    if not np.isfinite(limits.rate).any():
        return bounded
    reach, last = limits.rate * first_s, measured
    for row in bounded:
        known = np.isfinite(last)
        row[known] = np.clip(row, last - reach, last + reach)[known]
        last, reach = row, limits.rate * step_s
    return bounded


def beyond(limits, actions):
    slack = 1e-9 * np.maximum(1.0, np.abs(actions))
    return ~((actions >= limits.low - slack) & (actions <= limits.high + slack)).all(0)


@given(limits, chunks, places, st.integers(0, 8), st.integers(1, 9), st.sampled_from([0.1, 0.05]))
def test_the_rest_of_a_chunk_has_the_bits_of_bounding_it_alone(
        limits, chunk, at, first, count, first_s):
    due, course = chunk[first:first + count], limits.course(chunk, 0.1)
    expected = plain(limits, due, at, 0.1, first_s).tobytes()
    assert course.rest(first, first + count, at, first_s).tobytes() == expected
    if len(due) and course.keeps_rate(first, at, first_s):
        assert course.placed[first:first + count].tobytes() == expected


@given(limits, arrays(float, (3, 2), elements=values | st.sampled_from([3 + 1e-10, 3 + 1e-8])))
def test_what_is_within_the_positions_is_seen_at_a_look(limits, actions):
    np.testing.assert_array_equal(limits.beyond(actions), beyond(limits, actions))


class Plainly:
    """Follows chunks as `Hands` did when it bounded each of them in every tick."""

    def __init__(self, limits, velocity):
        self.limits, self.motion = limits, Motion(limits, 0.1)
        self.velocity, self.sent = velocity, np.zeros(2)
        self.clipped, self.outside = 0, 0

    def follow(self, chunk, rest, at, now):
        rows = (plain(self.limits, rest, self.sent, 0.1, 0.05) if self.velocity
                else plain(self.limits, rest, at, 0.1, 0.1))
        rows = self.motion.follow(rows, rest.astype(float), chunk.before(now), at, now, 0.05)
        self.clipped += not np.array_equal(rest[0], rows[0])
        if beyond(self.limits, rows).any():
            self.outside += 1
            return np.empty((0, 2))
        self.sent = rows[0] if self.velocity else self.sent
        return rows


@given(limits, st.booleans(), st.sampled_from([None, (0.5, np.inf), (3.0, 3.0)]), st.booleans(),
       st.lists(st.tuples(chunks, st.lists(st.tuples(values, values), min_size=1, max_size=3)),
                min_size=1, max_size=3))
def test_hands_send_and_count_what_they_would_if_they_bounded_all_of_it_in_every_tick(
        limits, velocity, acceleration, single, way):
    if acceleration and not velocity:
        limits = replace(limits, acceleration=np.array(acceleration))
    hands, plainly, now = Hands(SPEC, limits, velocity), Plainly(limits, velocity), START
    for actions, places in way:
        chunk = Chunk(now, STEP, actions.astype(np.float32 if single else float), now, 1)
        for x, z in places:
            first = min(max(0, chunk.index(now)), len(actions) - 1)
            hands.measure(State(now, now, np.array([x, z, 0.0])), SETTINGS)
            at = np.array([np.nan, np.nan if velocity else x])
            if plainly.motion.bounds:
                plainly.motion.measure(now, at, SETTINGS.period_ns)
            made = hands.follow(chunk, first, len(actions), Rung.CHUNK, SETTINGS, now).actions
            due = chunk.actions[first:]
            assert made.tobytes() == plainly.follow(chunk, due, at, now).tobytes()
            now += SETTINGS.period_ns
    assert (hands.clips.count, hands.clips.outside) == (plainly.clipped, plainly.outside)
