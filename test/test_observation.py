"""What a plan looks at depends on the samples, never on how they arrived."""

import gc
import weakref

import numpy as np
import pytest
from fakes import MS, START, STEP, frame_at, state_at, tiny_spec
from hypothesis import given
from hypothesis import strategies as st

from diffusion_policy_rt.runtime.observation import (
    ROBOT, NotReady, Observation, ObservationBuffer, State, Stream, observed)

CAMERAS = ('front', 'wrist')
TIMEOUT, SKEW = 500 * MS, 100 * MS
offsets = st.lists(st.integers(0, 400), min_size=1, max_size=16)


def filled(samples, n_obs=2, cameras=CAMERAS):
    """Return a buffer of (source, stamp, arrival) samples; the source `state` is the robot."""
    buffer = ObservationBuffer(tiny_spec(n_obs, cameras))
    for source, stamp, arrival in samples:
        if source == 'state':
            buffer.push_state(State(stamp, arrival, state_at(stamp)))
        else:
            buffer.push_frame(frame_at(stamp, source, arrival))
    return buffer


def at(ms, arrival=None):
    """Return one sample of each source at this many milliseconds after START."""
    stamp = START + ms * MS
    late = stamp if arrival is None else START + arrival * MS
    return [(source, stamp, late) for source in (*CAMERAS, 'state')]


def stamps(observation, camera='front'):
    return [(frame.stamp_ns - START) // MS for frame in observation.frames[camera]]


def seen(observation):
    """Return an observation's content in a form that compares."""
    if isinstance(observation, NotReady):
        return observation
    return (observation.stamp_ns, observation.skew_ns, observation.states.tolist(),
            {name: [f.stamp_ns for f in frames] for name, frames in observation.frames.items()})


@given(offsets, offsets, offsets, st.integers(1, 3), st.randoms())
def test_late_duplicate_and_reordered_arrivals_change_nothing(front, wrist, state, n_obs, random):
    arrival = START + 400 * MS
    samples = [(source, START + ms * MS, arrival) for source, group in zip(
        (*CAMERAS, 'state'), (front, wrist, state)) for ms in group]
    ordered = filled(sorted(set(samples)), n_obs).observe(arrival, TIMEOUT, TIMEOUT)
    shuffled = samples + random.choices(samples, k=5)
    random.shuffle(shuffled)
    assert seen(filled(shuffled, n_obs).observe(arrival, TIMEOUT, TIMEOUT)) == seen(ordered)


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=40, unique=True),
       st.integers(-10, 10**6 + 10), st.integers(1, 50))
def test_a_stream_keeps_the_newest_and_finds_the_nearest(pushed, instant, capacity):
    stream = Stream(capacity)
    for stamp in pushed:
        stream.push(stamp, stamp)
    kept = sorted(pushed)[-capacity:]
    assert len(stream) == len(kept) and stream.newest_ns == kept[-1]
    assert stream.nearest(instant) == min(kept, key=lambda s: (abs(s - instant), s))


def test_a_duplicate_is_not_taken():
    buffer = filled([])
    assert buffer.push_frame(frame_at(5)) and not buffer.push_frame(frame_at(5))
    assert buffer.push_state(State(5, 5, state_at(5)))
    assert not buffer.push_state(State(5, 6, state_at(6)))
    assert buffer.newest_state.arrival_ns == 5


@pytest.mark.parametrize('n_obs', [1, 2, 3])
def test_frames_stand_one_period_apart_whatever_the_camera_rate(n_obs):
    buffer = filled([s for ms in range(0, 401, 20) for s in at(ms)], n_obs)
    observation = buffer.observe(START + 400 * MS, TIMEOUT, SKEW)
    assert stamps(observation) == [400 - 100 * k for k in range(n_obs - 1, -1, -1)]
    expected = [state_at(START + ms * MS) for ms in stamps(observation)]
    np.testing.assert_array_equal(observation.states, expected)
    assert observation.stamp_ns == START + 400 * MS


def test_with_jitter_the_nearest_frame_stands_for_each_instant():
    buffer = filled([s for ms in (0, 95, 160, 203) for s in at(ms)])
    assert stamps(buffer.observe(START + 203 * MS, TIMEOUT, SKEW)) == [95, 203]


def test_at_the_start_the_oldest_sample_stands_for_the_earlier_ones():
    observation = filled(at(0), n_obs=3).observe(START, TIMEOUT, SKEW)
    assert stamps(observation) == [0, 0, 0] and observation.states.shape == (3, 3)


@pytest.mark.parametrize('missing, reason', [
    ('front', 'no image from camera front yet'), ('wrist', 'no image from camera wrist yet'),
    ('state', 'no robot state yet')])
def test_what_never_came_is_named(missing, reason):
    buffer = filled([s for s in at(0) if s[0] != missing])
    assert buffer.observe(START, TIMEOUT, SKEW) .reason == reason


@pytest.mark.parametrize('source', [*CAMERAS, 'state'])
@pytest.mark.parametrize('by', ['stamp', 'arrival'])
def test_a_sample_is_too_old_by_its_stamp_or_by_its_arrival_just_after_the_timeout(source, by):
    early, late = START, START + 300 * MS
    times = (early, late) if by == 'stamp' else (late, early)
    others = [(s, late, late) for s in (*CAMERAS, 'state') if s != source]
    buffer = filled([(source, *times), *others])
    assert isinstance(buffer.observe(early + TIMEOUT, TIMEOUT, TIMEOUT), Observation)
    refused = buffer.observe(early + TIMEOUT + 1, TIMEOUT, TIMEOUT)
    assert 'too old' in refused.reason and source in refused.reason


def test_cameras_that_drift_apart_are_refused_just_beyond_the_skew():
    samples = [('front', START, START), *at(100)[1:]]
    assert filled(samples).observe(START + SKEW, TIMEOUT, SKEW).skew_ns == SKEW
    assert '0.100 s apart' in filled(samples).observe(START + SKEW, TIMEOUT, SKEW - 1).reason


@pytest.mark.parametrize('source', [*CAMERAS, 'state'])
def test_a_stamp_from_the_future_is_reported_once_and_does_not_blind_the_policy(source):
    buffer = filled([*at(0), (source, START + 3600 * 10 * STEP, START)])
    refused = buffer.observe(START, TIMEOUT, SKEW)
    assert 'future' in refused.reason and source in refused.reason
    assert stamps(buffer.observe(START, TIMEOUT, SKEW)) == [0, 0]


def test_while_nothing_looks_no_more_waits_than_is_kept_and_the_newest_of_it():
    buffer = ObservationBuffer(tiny_spec(2, CAMERAS), samples_per_period=4)
    frames = [frame_at(START + k * MS, camera) for k in range(1000) for camera in CAMERAS]
    alive = [weakref.ref(frame) for frame in frames]
    for frame in frames:
        buffer.arrive(frame)
    buffer.arrive(State(START, START, state_at(START)))
    del frames, frame
    gc.collect()
    assert sum(ref() is not None for ref in alive) == 2 * 4 * len(CAMERAS)
    buffer.collect()
    assert buffer.newest == {**dict.fromkeys(CAMERAS, START + 999 * MS), ROBOT: START}


def test_nothing_is_left_after_clear():
    buffer = filled(at(0))
    buffer.clear()
    assert buffer.newest_ns is None and buffer.newest_state is None
    assert isinstance(buffer.observe(START, TIMEOUT, SKEW), NotReady)


def test_the_condition_goes_by_instant_then_camera_then_normalised_state():
    spec = tiny_spec(2, CAMERAS)
    latents = {'wrist': [np.full(8, 2), np.full(8, 5)], 'front': [np.full(8, 1), np.full(8, 4)]}
    states = np.array([[0, 1, 0.5], [4, 6, 1]])  # the offset, then one scale above it
    expected = [1] * 8 + [2] * 8 + [0] * 3 + [4] * 8 + [5] * 8 + [1] * 3
    cond = observed(spec, latents, states)
    assert cond.dtype == np.float32 and cond.tolist() == expected
