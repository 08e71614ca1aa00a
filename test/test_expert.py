"""The expert's data set: what it holds, that it goes on after a kill, and that searching helps."""

import numpy as np
import pytest

pytest.importorskip('torch', reason='the expert needs torch')

from diffusion_policy_rt.cli.main import main  # noqa: E402
from diffusion_policy_rt.errors import DataError, SpecError  # noqa: E402
from diffusion_policy_rt.sim.block import GOAL, keypoints  # noqa: E402
from diffusion_policy_rt.sim.pusht import SUCCESS, PushT  # noqa: E402
from diffusion_policy_rt.sim.rollout import Rollout, distance  # noqa: E402
from diffusion_policy_rt.train.data import join, read_dataset  # noqa: E402
from diffusion_policy_rt.train.expert.collect import (  # noqa: E402
    Collection, Collector, Demonstration, start, write_dataset)
from diffusion_policy_rt.train.expert.search import PUSH_STEPS, bends, straight_push  # noqa: E402
from diffusion_policy_rt.train.expert.store import Store  # noqa: E402

KEYS = {name: (name,) for name in ('img', 'state', 'action', 'keypoint')}


@pytest.fixture(scope='module')
def collector():
    return Collector(Collection('pusht'))


@pytest.mark.parametrize('seed', [3, 4])
def test_a_rollout_tells_what_will_happen(seed):
    robot, ahead, rng = PushT(), Rollout(), np.random.default_rng(seed)
    robot.reset(seed)
    for _ in range(12):
        robot.step(robot.block[:2] + rng.uniform(-60, 60, 2))
    targets = np.clip(robot.block[:2] + rng.uniform(-80, 80, (10, 2)), 0, 512)
    told = ahead.run(Rollout.snapshot(robot), targets)
    for target, pose in zip(targets, told):
        robot.step(target)
        np.testing.assert_allclose(robot.block, pose, atol=0.5)
    assert np.abs(told[-1] - told[0]).max() > 1  # it was pushed at all


def test_distance_is_zero_at_the_goal_and_in_pixels():
    assert distance(GOAL) == 0
    assert distance(GOAL + [3, 4, 0]) == pytest.approx(5)


def test_bends_are_smooth_and_pushes_stay_in_the_square():
    rng = np.random.default_rng(0)
    offsets = bends(rng, 200, 15, 4.0)
    assert offsets.shape == (200, 15, 2) and 2 < offsets.std() < 4.5
    kinks = np.abs(np.diff(offsets, n=2, axis=1)).max(axis=2) > 1e-6
    assert kinks.sum(1).max() <= 4
    for _ in range(50):
        way = straight_push(rng, np.array([20.0, 20]), np.array([300, 200, 1.0]))
        assert way.shape == (PUSH_STEPS, 2) and way.min() >= 5 and way.max() <= 507
        assert np.linalg.norm(np.diff(way, axis=0), axis=1).max() <= 30 + 1e-9


@pytest.mark.parametrize('seed', range(30))
def test_episodes_that_start_anywhere_start_sound(seed):
    robot = PushT()
    start(robot, seed, 'anywhere')
    points = keypoints(robot.block)
    assert points.min() > 8 and points.max() < 504
    before = robot.block
    robot.step(robot.tool)
    np.testing.assert_allclose(robot.block, before, atol=1e-6)  # tool and block do not overlap


def test_an_episode_reaches_the_goal_and_is_the_same_again(collector):
    first, second = collector.episode(400001), collector.episode(400001)
    np.testing.assert_array_equal(first.action, second.action)
    np.testing.assert_array_equal(first.images, second.images)
    assert first.success and first.coverage > SUCCESS
    robot = PushT()
    start(robot, 400001, 'published')
    for row, target, image in zip(first.state, first.action, first.images):
        np.testing.assert_allclose(np.array([*robot.tool, *robot.block]), row, atol=1e-3)
        np.testing.assert_array_equal(robot.render(), image)
        robot.step(target)
    assert robot.coverage() > SUCCESS


def demonstration(seed, rows=3, coverage=0.96):
    return Demonstration(seed, np.full((rows, 96, 96, 3), seed % 250, np.uint8),
                         np.full((rows, 5), seed, np.float32), np.zeros((rows, 2), np.float32),
                         coverage)


def test_the_data_set_is_read_as_the_published_one_is(tmp_path):
    write_dataset(tmp_path / 'a.npz', [demonstration(1), demonstration(2, 5)])
    data = read_dataset(tmp_path / 'a.npz', KEYS)
    assert data.episode_ends.tolist() == [3, 8]
    assert data.streams['keypoint'].shape == (8, 9, 2)
    both = join([data, data])
    assert both.episode_ends.tolist() == [3, 8, 11, 16]
    assert both.title == 'a.npz + a.npz' and len(both.streams['img']) == 16


def test_data_sets_of_other_shapes_do_not_join(tmp_path):
    write_dataset(tmp_path / 'a.npz', [demonstration(1)])
    data = read_dataset(tmp_path / 'a.npz', KEYS)
    other = read_dataset(tmp_path / 'a.npz', {**KEYS, 'action': ('state',)})
    with pytest.raises(DataError, match="stream 'action' has rows .2. .* and .5."):
        join([data, other])


def test_a_collection_goes_on_and_keeps_the_successes(tmp_path, monkeypatch):
    ran = []

    def collect(what, seeds, workers):
        for seed in seeds:
            ran.append(seed)
            yield demonstration(seed, coverage=0.96 if seed % 2 else 0.5)

    monkeypatch.setattr('diffusion_policy_rt.train.expert.store.collect', collect)
    store = Store(tmp_path, Collection('pusht'))
    assert list(store.collect(range(1, 4), 1)) == [1, 2, 3]
    again = Store(tmp_path, Collection('pusht'))
    assert list(again.collect(range(1, 6), 1)) == [1, 2, 3, 4, 5]
    assert ran == [1, 2, 3, 4, 5]
    assert again.write(range(1, 6))['kept'] == 3
    states = read_dataset(tmp_path, KEYS).streams['state'][:, 0]
    assert sorted(set(states)) == [1, 3, 5]
    with pytest.raises(DataError, match='none of 1 episodes succeeded'):
        again.write(range(2, 3))
    with pytest.raises(DataError, match='another collection'):
        Store(tmp_path, Collection('pusht', starts='anywhere'))


def test_test_seeds_and_foreign_policies_are_refused(tmp_path, capsys, monkeypatch):
    assert main(['expert', '--out', str(tmp_path), '--first', '100000']) == 1
    assert 'are for tests; use --first 400000' in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    from diffusion_policy_rt.train.expert import collect as module
    bundle = module.read_bundle('pusht')
    import dataclasses
    foreign = dataclasses.replace(bundle, spec=dataclasses.replace(bundle.spec, rate=20.0))
    monkeypatch.setattr(module, 'read_bundle', lambda name: foreign)
    with pytest.raises(SpecError, match='no policy of Push-T'):
        Collector(Collection('pusht'))
