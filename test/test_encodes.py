"""Every frame is encoded once in its life, whatever the rates and the order of arrival."""

import numpy as np
import pytest
from fakes import START, STEP, feed, frame_at, make_loop, state_at, tiny_spec
from hypothesis import given
from hypothesis import strategies as st

from diffusion_policy_rt.runtime.loop import Plan

CAMERAS = [('front',), ('front', 'wrist')]


@pytest.mark.parametrize('cameras', CAMERAS)
@pytest.mark.parametrize('n_obs', [1, 2, 4])
@pytest.mark.parametrize('plans', [1, 3])
def test_one_encode_per_frame_whatever_the_control_rate(n_obs, cameras, plans):
    loop, frames = make_loop(tiny_spec(n_obs=n_obs, cameras=cameras)), 12
    for stamp in range(START, START + frames * STEP, STEP):
        feed(loop, stamp)
        made = [loop.plan(stamp + number) for number in range(plans)]
        assert all(isinstance(plan, Plan) for plan in made)
        # no new frame came since: nothing is encoded
        assert all(plan.cache_hits == n_obs * len(cameras) for plan in made[1:])
    assert len(loop.engine.encoded) == loop.cache.misses == frames * len(cameras)
    assert loop.cache.hits == (plans * n_obs - 1) * frames * len(cameras)


@pytest.mark.parametrize('cameras', CAMERAS)
@pytest.mark.parametrize('n_obs', [2, 4])
def test_frames_that_no_plan_looks_at_are_not_encoded(n_obs, cameras):
    loop = make_loop(tiny_spec(n_obs=n_obs, cameras=cameras))
    for number in range(40):  # ten times as many frames as the policy's rate has
        feed(loop, START + number * STEP // 10)
    loop.plan(START + 39 * STEP // 10)
    assert len(loop.engine.encoded) == n_obs * len(cameras)


arrivals = st.lists(st.tuples(st.integers(0, 12), st.booleans()), min_size=1, max_size=30)


@pytest.mark.parametrize('n_obs', [2, 4])
@given(arrivals)
def test_late_double_missing_and_reordered_frames_change_no_action(n_obs, numbers):
    cached, plain = (make_loop(tiny_spec(n_obs=n_obs, cameras=CAMERAS[1])) for _ in range(2))
    newest = 0
    for number, twice in numbers:
        newest = max(newest, number)
        now = START + newest * STEP
        for loop in (cached, plain):
            for camera in ('front', 'wrist')[:1 + twice]:
                loop.observe_frame(frame_at(START + number * STEP, camera))
                loop.observe_frame(frame_at(START + number * STEP, 'front'))
            loop.observe_state(now, now, state_at(now))
        plain.cache.clear()
        ours, theirs = cached.plan(now), plain.plan(now)
        assert type(ours) is type(theirs)
        if isinstance(ours, Plan):
            np.testing.assert_array_equal(ours.chunk.actions, theirs.chunk.actions)
    assert len(cached.engine.encoded) <= 2 * len({number for number, _ in numbers})
    assert len(cached.engine.encoded) <= len(plain.engine.encoded)
