"""The same frames give the same actions, each at its due time, however they are planned."""

import numpy as np
import pytest
from fakes import (
    ACTIONS, MS, START, STATES, STEP, feed, frame_at, image_at, make_loop, planned, state_at,
    tiny_spec)
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_policy_rt.runtime.clock import ManualClock
from diffusion_policy_rt.runtime.frame import Frame
from diffusion_policy_rt.runtime.limits import Limits
from diffusion_policy_rt.runtime.observation import NotReady
from diffusion_policy_rt.runtime.trace import Rung


@pytest.mark.parametrize('n_obs', [1, 2, 4])
@pytest.mark.parametrize('cameras', [('front',), ('front', 'wrist')])
def test_each_frame_is_encoded_once_in_its_life(n_obs, cameras):
    loop = make_loop(tiny_spec(n_obs, cameras))
    for k in range(12):
        feed(loop, START + k * STEP)
        plan = loop.plan(START + k * STEP)
        assert plan.cache_hits == (n_obs - 1) * len(cameras)
    assert len(loop.engine.encoded) == 12 * len(cameras)


@settings(max_examples=25)
@given(st.randoms(use_true_random=False), st.integers(1, 3),
       st.sampled_from(['edm', 'ddpm', 'flow']))
def test_the_actions_depend_on_the_frames_not_on_when_they_were_seen(random, n_obs, kind):
    spec = tiny_spec(n_obs, ('front', 'wrist'), kind, steps=(1, 4, 20), reference='state')
    instants = [START + k * STEP // 2 for k in range(9)]
    once, often = make_loop(spec, max_steps=20), make_loop(spec, max_steps=20)
    for instant in instants:
        feed(once, instant, START)
    samples = [(instant, name) for instant in instants for name in ('front', 'wrist', 'state')]
    random.shuffle(samples)
    for instant, name in samples:
        if name == 'state':
            often.observe_state(instant, START, state_at(instant))
        else:
            often.observe_frame(frame_at(instant, name, START))
        if random.random() < 0.3:
            often.plan(START, random.choice([None, 0]))
            often.observe(START)
    plans = once.plan(instants[-1]), often.plan(instants[-1])
    np.testing.assert_array_equal(plans[0].chunk.actions, plans[1].chunk.actions)
    assert plans[0].chunk.stamp_ns == plans[1].chunk.stamp_ns == instants[-1]


def test_another_seed_or_another_stamp_draws_another_noise():
    def actions(seed, stamp):
        loop = make_loop(seed=seed)
        loop.observe_frame(Frame.of('front', stamp, image_at('front', START)))
        loop.observe_state(stamp, stamp, state_at(START))
        return loop.plan(stamp).chunk.actions

    np.testing.assert_array_equal(actions(0, START), actions(0, START))
    assert not np.array_equal(actions(0, START), actions(1, START))
    assert not np.array_equal(actions(0, START), actions(0, START + 1))


def test_nothing_of_the_time_before_a_reset_is_left():
    loop, before = planned()
    loop.reset()
    assert loop.act(START).rung == Rung.STOP and isinstance(loop.plan(START), NotReady)
    assert loop.hold().rung == Rung.STOP and loop.newest_frame is None
    feed(loop, START)
    again = loop.plan(START)
    assert len(loop.engine.encoded) == 2
    np.testing.assert_array_equal(again.chunk.actions, before.chunk.actions)


def test_the_chunk_is_decoded_with_the_newest_observed_state():
    spec = tiny_spec(reference='state')
    loop = make_loop(spec)
    feed(loop, START - STEP)
    feed(loop, START)
    loop.engine.output = spec.action.normalise(np.zeros(2))  # stay where you are
    state = dict(zip(STATES, state_at(START)))
    expected = [[state[name] for name in ACTIONS]] * 8
    np.testing.assert_allclose(loop.plan(START).chunk.actions, expected, atol=1e-6)


def test_published_actions_keep_the_rate_from_the_measured_state():
    limits = Limits(np.full(2, -9.0), np.full(2, 9.0), np.full(2, 0.1))
    loop, plan = planned(limits=limits)
    state = dict(zip(STATES, state_at(START)))
    actions = loop.act(START, plan).actions
    path = np.vstack(([state[name] for name in ACTIONS], actions))
    assert (np.abs(np.diff(path, axis=0)) <= 0.1 / 10 + 1e-9).all()


def clockwork(spec, encode_ms, denoise_ms):
    """Return a loop whose actions are their own due times, while ticks pass as it plans."""
    clock = ManualClock(START)
    loop = make_loop(spec, clock)
    loop.engine.encode_ns, loop.engine.denoise_ns = encode_ms * MS, denoise_ms * MS
    due = (np.arange(spec.horizon) - spec.n_obs + 1) / spec.rate  # after the observed state
    loop.engine.output = spec.action.normalise(np.stack((due, due), -1))
    ticks = []

    def meanwhile():
        while START + len(ticks) * STEP <= clock.now_ns():
            now, seconds = START + len(ticks) * STEP, len(ticks) / 10
            loop.observe_frame(frame_at(now))
            loop.observe_state(now, now, np.array([seconds, seconds, 0.5]))
            ticks.append((seconds, loop.act(now)))

    loop.engine.meanwhile = meanwhile
    return loop, clock, ticks


@settings(max_examples=30)
@given(st.integers(0, 60), st.integers(0, 40))
def test_with_any_engine_speed_every_tick_executes_the_action_due(encode_ms, denoise_ms):
    spec = tiny_spec(steps=(4,), horizon=16, reference='state', clip=None)
    loop, clock, ticks = clockwork(spec, encode_ms, denoise_ms)
    while len(ticks) < 30:
        loop.engine.meanwhile()
        loop.plan(clock.now_ns())
        clock.advance(STEP // 3)
    begun = next(i for i, (_, action) in enumerate(ticks) if action.rung != Rung.STOP)
    assert begun <= 4
    for seconds, action in ticks[begun:]:
        assert action.rung == Rung.CHUNK
        np.testing.assert_allclose(action.actions[0], seconds, atol=0.05)
