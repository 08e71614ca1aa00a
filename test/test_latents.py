"""The latent cache: every frame is encoded once in its life."""

import numpy as np
import pytest
from fakes import START, STEP, frame_at, state_at
from hypothesis import given
from hypothesis import strategies as st

from diffusion_policy_rt.engines.load import load_engine
from diffusion_policy_rt.runtime.clock import ManualClock
from diffusion_policy_rt.runtime.latents import LatentCache
from diffusion_policy_rt.runtime.loop import PolicyLoop
from diffusion_policy_rt.runtime.settings import LoopSettings

visits = st.lists(st.tuples(st.sampled_from('ab'), st.integers(0, 9)), min_size=1, max_size=40)


def visit(cache, keys):
    """Get the latent of each (camera, stamp); return the latents and the frames encoded."""
    encoded = []

    def encode(frame):
        encoded.append((frame.camera, frame.stamp_ns))
        return np.array([ord(frame.camera), frame.stamp_ns], np.float32)

    return [cache.get(frame_at(stamp, camera), encode) for camera, stamp in keys], encoded


@given(visits)
def test_each_frame_is_encoded_once_in_whatever_order_it_is_asked_for(keys):
    cache = LatentCache(20)
    latents, encoded = visit(cache, keys)
    assert sorted(encoded) == sorted(set(keys))
    assert [tuple(x) for x in latents] == [(ord(camera), stamp) for camera, stamp in keys]
    assert (cache.hits, cache.misses) == (len(keys) - len(encoded), len(encoded))


@given(visits, st.integers(1, 5))
def test_the_cache_never_holds_more_than_its_capacity_nor_a_wrong_latent(keys, capacity):
    cache = LatentCache(capacity)
    for key in keys:
        (latent,), _ = visit(cache, [key])
        assert tuple(latent) == (ord(key[0]), key[1]) and len(cache) <= capacity


def test_the_least_recently_used_leaves_first():
    cache = LatentCache(2)
    _, encoded = visit(cache, [('a', 1), ('a', 2), ('a', 1), ('a', 3), ('a', 1), ('a', 2)])
    assert encoded == [('a', 1), ('a', 2), ('a', 3), ('a', 2)]


def test_two_cameras_with_one_stamp_have_two_latents():
    (front, wrist), _ = visit(LatentCache(9), [('a', 1), ('b', 1)])
    assert not np.array_equal(front, wrist)


def test_a_stamp_that_comes_again_is_another_image():
    encoded, cache = [], LatentCache(9)
    for arrival in (5, 6, 5):
        cache.get(frame_at(1, 'a', arrival), lambda frame: encoded.append(frame) or np.zeros(1))
    assert [frame.arrival_ns for frame in encoded] == [5, 6]


def test_after_clear_a_frame_is_encoded_again():
    cache = LatentCache(9)
    visit(cache, [('a', 1)])
    cache.clear()
    assert len(cache) == 0 and visit(cache, [('a', 1)])[1] == [('a', 1)]


def test_a_failed_encoding_is_not_kept():
    cache = LatentCache(9)
    with pytest.raises(ZeroDivisionError):
        cache.get(frame_at(1, 'a'), lambda frame: 1 / 0)
    assert len(cache) == 0 and visit(cache, [('a', 1)])[1] == [('a', 1)]


def test_a_latent_in_the_cache_cannot_be_written():
    (latent,), _ = visit(LatentCache(9), [('a', 1)])
    with pytest.raises(ValueError, match='read-only'):
        latent[0] = 0


def test_a_cache_that_can_hold_nothing_is_refused():
    with pytest.raises(ValueError, match='capacity 0'):
        LatentCache(0)


def test_the_loop_gives_the_same_bits_with_the_cache_as_without_it(exported):
    bundle, _ = exported('keypoint_mlp', 'edm')
    loop = PolicyLoop(bundle.spec, load_engine(bundle), LoopSettings(), ManualClock())
    for stamp in range(START, START + 6 * STEP, STEP):
        for camera in bundle.spec.cameras:
            loop.observe_frame(frame_at(stamp, camera.name, shape=(45, 57)))
        loop.observe_state(stamp, stamp, state_at(stamp))
        cached = loop.plan(stamp)
        loop.cache.clear()
        fresh = loop.plan(stamp)
        assert cached.cache_hits == 2 and fresh.cache_hits == (2 if stamp == START else 0)
        np.testing.assert_array_equal(cached.chunk.actions, fresh.chunk.actions)
