"""Committed actions reach the plan, and the plan keeps them; in training as when running."""

import numpy as np
import pytest
from fakes import MS, START, STEP, feed, make_loop, state_at, tiny_spec
from hypothesis import given
from hypothesis import strategies as st

from diffusion_policy_rt.errors import SpecError
from diffusion_policy_rt.runtime.chunk import Chunk
from diffusion_policy_rt.runtime.prefix import NO_PREFIX, PrefixLayout, committed

SPEC = tiny_spec(prefix=4)
LAYOUT = PrefixLayout.of(SPEC)


def chunk_from(start_ns, spec=SPEC):
    """Return a chunk whose action i is (i, -i)."""
    rows = np.arange(spec.horizon, dtype=float)
    return Chunk(start_ns, spec.step_ns, np.stack([rows, -rows], 1), start_ns, 1)


@given(st.integers(0, 12), st.integers(-49, 49), st.integers(0, 12))
def test_committed_are_the_actions_due_from_the_observation_until_now(late, off, old):
    chunk = chunk_from(START)
    stamp = START + old * STEP
    found = committed(SPEC, chunk, stamp, stamp + late * STEP + off * MS)
    last = min(old + min(late, SPEC.prefix), SPEC.horizon)
    assert found[:, 0].tolist() == list(range(old, last))


def test_nothing_is_committed_without_a_chunk_without_latency_or_before_the_chunk():
    chunk = chunk_from(START)
    assert not len(committed(SPEC, None, START, START + STEP))
    assert not len(committed(SPEC, chunk, START, START + 40 * MS))
    assert not len(committed(SPEC, chunk, START - STEP, START))
    assert not len(committed(tiny_spec(), chunk, START, START + STEP))


@given(st.integers(0, 4))
def test_the_tail_holds_values_and_masks(count):
    rng = np.random.default_rng(count)
    actions = rng.standard_normal((count, 2))
    tail = LAYOUT.tail(actions).reshape(4, 3)
    np.testing.assert_allclose(tail[:count, :2], actions, rtol=1e-6)
    assert tail[:, 2].tolist() == [1.0] * count + [0.0] * (4 - count)
    assert not tail[count:].any()
    assert SPEC.cond_dim == SPEC.observed_dim + LAYOUT.width


@pytest.mark.parametrize('prefix', [-1, 7])
def test_a_prefix_that_leaves_no_action_free_is_refused(prefix):
    with pytest.raises(SpecError, match='prefix .* must lie in 0..6'):
        tiny_spec(prefix=prefix)


def planned(loop, late, stamp):
    """Observe at `stamp` and plan `late` steps later; return the new chunk."""
    feed(loop, stamp)
    return loop.plan(stamp + late * STEP).chunk


@pytest.mark.parametrize('reference', ['absolute', 'state'])
@pytest.mark.parametrize('late', [0, 1, 3, 6])
@pytest.mark.parametrize('steps', [1, 4])
def test_the_new_chunk_holds_what_is_committed_and_the_engine_is_told(late, steps, reference):
    spec = tiny_spec(prefix=4, reference=reference, clip=None)
    loop = make_loop(spec, min_steps=steps, max_steps=steps, observation_timeout=1.0)
    told, plain = [], loop.engine.denoise
    loop.engine.denoise = lambda x, sigma, cond, stop=0.0: (
        told.append(cond) or plain(x, sigma, cond))
    first = planned(loop, 0, START)
    told.clear()
    second = planned(loop, late, START + 2 * STEP)
    count = min(late, 4)
    np.testing.assert_allclose(second.actions[1:1 + count], first.actions[3:3 + count], atol=1e-5)
    assert len(told) == steps
    now = state_at(START + 2 * STEP)
    expected = spec.encode_actions(first.actions[3:3 + count], now)
    for cond in told:
        tail = cond[spec.observed_dim:].reshape(4, 3)
        assert cond.shape == (spec.cond_dim,) and tail[:, 2].sum() == count
        np.testing.assert_allclose(tail[:count, :2], expected, atol=1e-5)


def test_training_tells_prefixes_and_keeps_them_as_running_does():
    torch = pytest.importorskip('torch', reason='training needs torch')
    from diffusion_policy_rt.train.prefix import (
        draw_lengths, free_actions, keep_prefix, with_prefix, without_prefix)
    rng = np.random.default_rng(0)
    chunks = torch.from_numpy(rng.standard_normal((64, 8, 2), np.float32))
    observed = torch.from_numpy(rng.standard_normal((64, SPEC.observed_dim), np.float32))
    lengths = draw_lengths(LAYOUT, 64, rng)
    assert set(lengths) == {0, 1, 2, 3, 4}
    cond = with_prefix(LAYOUT, observed, chunks, lengths)
    estimate = torch.from_numpy(rng.standard_normal((64, 8, 2), np.float32))
    kept, free = keep_prefix(LAYOUT, estimate, cond), free_actions(LAYOUT, chunks, cond)
    for row, length in enumerate(lengths):
        given_ = chunks[row, 1:1 + length].numpy()
        np.testing.assert_array_equal(cond[row, SPEC.observed_dim:], LAYOUT.tail(given_))
        held = LAYOUT.hold(lambda x, sigma, stop, row=row: estimate[row].numpy(), given_)
        np.testing.assert_array_equal(kept[row], held(None, 1.0, 0.0))
        assert free[row, :, 0].tolist() == [1.0] + [0.0] * length + [1.0] * (7 - length)
    empty = with_prefix(LAYOUT, observed, chunks, np.zeros(64, int))
    torch.testing.assert_close(without_prefix(LAYOUT, observed), empty)
    assert keep_prefix(NO_PREFIX, estimate, observed) is estimate


def test_the_loss_is_not_about_the_committed_actions():
    torch = pytest.importorskip('torch', reason='training needs torch')
    from diffusion_policy_rt.train.objectives import DenoisingLoss
    from diffusion_policy_rt.train.recipe import Training
    how = Training(epochs=1, batch_size=1, learning_rate=1.0)
    loss = DenoisingLoss(SPEC.precond, how, LAYOUT)
    chunks = torch.randn(32, 8, 2, generator=torch.Generator().manual_seed(0))
    output = torch.zeros(32, 8, 2, requires_grad=True)
    observed, seen = torch.zeros(32, SPEC.observed_dim), []
    value = loss(lambda x, level, cond: seen.append(cond) or output, chunks, observed,
                 np.random.default_rng(0))
    value.backward()
    masks = seen[0][:, SPEC.observed_dim:].reshape(32, 4, 3)[..., 2].bool()
    assert masks.any() and not output.grad[:, 1:5][masks].any()
    assert output.grad[:, 1:5][~masks].all() and output.grad[:, 0].all()
