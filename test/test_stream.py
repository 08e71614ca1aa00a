"""Streamed images: each row once an epoch, each process its part, at most so much memory."""

import numpy as np
import peers
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip('torch', reason='training needs torch')

from diffusion_policy_rt.errors import DataError  # noqa: E402
from diffusion_policy_rt.train.data.frames import Blank, First, Frames, Held, Joined  # noqa: E402
from diffusion_policy_rt.train.distributed import Strategy, World  # noqa: E402
from diffusion_policy_rt.train.feed import Feed, span_of  # noqa: E402
from diffusion_policy_rt.train.order import PooledOrder  # noqa: E402
from diffusion_policy_rt.train.trainer import Trainer  # noqa: E402
from diffusion_policy_rt.train.windows import make_windows  # noqa: E402

CPU = torch.device('cpu')
BACK = 1
SIZE = 2 * 2 * 3
"""Bytes of an image."""


class Counted(Frames):
    """Images of which each tells its row; counts how often each is read."""

    def __init__(self, count):
        super().__init__(count, 2, 2)
        self.read = np.zeros(count, int)

    def each(self, rows):
        for row in rows:
            self.read[row] += 1
            yield np.full((2, 2, 3), row % 251, np.uint8)


@st.composite
def runs(draw):
    """Draw the ends of episodes, the rows that are trained on, the batch, the seed, the pool."""
    lengths = draw(st.lists(st.integers(1, 30), min_size=1, max_size=12))
    ends = np.cumsum(lengths)
    kept = draw(st.lists(st.booleans(), min_size=len(ends), max_size=len(ends)))
    kept[0] = True
    rows = np.flatnonzero(np.repeat(kept, lengths))
    batch = draw(st.sampled_from([1, 2, 4, 8]))
    return ends, rows, batch, draw(st.integers(0, 3)), draw(st.integers(1, 9))


@given(runs())
def test_every_row_is_seen_once_an_epoch_but_for_less_than_a_batch(run):
    ends, rows, batch, seed, span = run
    order = PooledOrder(rows, batch, seed, ends, span)
    for epoch in range(2):
        seen = np.concatenate([order.batch(epoch * order.per_epoch + step)
                               for step in range(order.per_epoch)])
        assert len(set(seen)) == len(seen) and set(seen) <= set(rows)
        assert len(rows) - len(seen) < batch


@settings(deadline=None)
@given(runs(), st.sampled_from([1, 2, 4]), st.data())
def test_processes_read_their_parts_and_hold_no_more_than_was_allowed(run, size, data):
    ends, rows, batch, seed, span = run
    batch *= size
    observed = make_windows(ends, 1 + BACK, 4).observed
    order, seen = PooledOrder(rows, batch, seed, ends, span), []
    first = data.draw(st.integers(0, order.per_epoch - 1))  # as if resumed there
    most = 2 * batch * (span + BACK) * SIZE
    assert span_of(most, {'a': Counted(1)}, batch, BACK) == span
    for rank in range(size):
        frames = Counted(int(ends[-1]))
        with Feed({'a': frames}, observed, order, order.per_epoch, World(rank, size, CPU)) as feed:
            for step in range(first, order.per_epoch):
                mine = order.batch(step)[rank::size]
                feed.advance(step)
                taken = feed.take('a', observed[mine])
                assert taken.shape == (len(mine), 1 + BACK, 2, 2, 3)
                assert (taken[:, :, 0, 0, 0].numpy() == observed[mine] % 251).all()
                assert feed.held_bytes <= most / size
                seen.append(mine)
        assert feed.read == frames.read.sum()
        pools = -(-order.per_epoch // span)
        assert feed.read <= batch // size * (order.per_epoch + BACK * pools)
    left = np.concatenate([order.batch(step) for step in range(first, order.per_epoch)])
    assert sorted(np.concatenate(seen)) == sorted(left)


def test_rows_that_no_pool_has_are_read_when_they_are_taken():
    order, frames = PooledOrder(np.arange(8), 4, 0, np.array([8, 12]), 1), Counted(12)
    with Feed({'a': frames}, np.arange(12)[:, None], order, 2, World(0, 1, CPU)) as feed:
        feed.advance(0)
        assert feed.take('a', np.array([11, 9]))[:, 0, 0, 0].tolist() == [11, 9]


def test_what_cannot_be_read_ends_the_run_with_its_own_message():
    class Damaged(Counted):
        def each(self, rows):
            raise DataError('a.mp4: is damaged')

    order = PooledOrder(np.arange(8), 4, 0, np.array([8]), 1)
    with Feed({'a': Damaged(8)}, np.arange(8)[:, None], order, 2, World(0, 1, CPU)) as feed:
        with pytest.raises(DataError, match='a.mp4'):
            feed.advance(0)


def test_too_little_memory_for_two_batches_is_refused_with_what_is_needed():
    with pytest.raises(DataError, match='give at least 9.6e-07'):
        span_of(100, {'a': Counted(5)}, 20, 1)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.data())
def test_joined_streams_are_those_after_each_other(lengths, data):
    arrays = [np.full((n, 2, 2, 3), k, np.uint8) for k, n in enumerate(lengths)]
    arrays.append(np.zeros((2, 2, 2, 3), np.uint8))
    whole = np.concatenate(arrays)
    joined = Joined([*map(Held, arrays[:-1]), Blank(2, 2, 2)])
    rows = np.array(data.draw(st.lists(st.integers(0, len(whole) - 1), min_size=1)))
    np.testing.assert_array_equal(joined[rows], whole[rows])
    np.testing.assert_array_equal(First(joined, 1), whole[:1])


def test_a_streamed_run_goes_on_from_two_processes_in_one_and_then_in_four(tmp_path):
    def alone(folder, **strategy):
        world = World(0, 1, CPU, Strategy(**strategy))
        objective, feed = peers.streamed(world)
        return Trainer(objective, peers.how(), world, 3, folder / 'policy.ckpt', 'run', feed=feed)

    two = peers.start(2, tmp_path, stream=True, save_every=1, stop=3)
    expected = alone(tmp_path / 'whole')
    whole = expected.run('test').state_dict()
    peers.results(peers.finish(two))
    one = alone(tmp_path, save_every=1)
    step, taken = one.train_step, []

    def killed():
        if one.step == 5:  # in the middle of an epoch
            raise KeyboardInterrupt
        taken.append(one.step)
        return step()

    one.train_step = killed
    with pytest.raises(KeyboardInterrupt):
        one.run('test')
    assert taken == [3, 4] and len(one.history.train) == 2
    for result in peers.results(peers.finish(peers.start(4, tmp_path, stream=True))):
        assert result['steps'] == [5, 6, 7]
        np.testing.assert_allclose(result['train'], expected.history.train, rtol=1e-4)
        np.testing.assert_allclose(result['validation'], expected.history.validation, rtol=1e-4)
    made = torch.load(tmp_path / 'whole.pt', weights_only=True)
    for name, tensor in whole.items():
        torch.testing.assert_close(made[name], tensor, rtol=1e-3, atol=1e-4)
