"""A policy that observes no images: the newest state is the instant of its observation."""

import json

import bags
import numpy as np
import pytest
from fakes import ACTIONS, MS, START, STATES, STEP, feed, make_loop, state_at, tiny_spec
from test_replay import replay

from diffusion_policy_rt.cli.main import main
from diffusion_policy_rt.replay.bag_data import BagRows, Wanted
from diffusion_policy_rt.replay.measures import figures
from diffusion_policy_rt.runtime.observation import ROBOT, NotReady
from diffusion_policy_rt.runtime.plan import Plan
from diffusion_policy_rt.runtime.warmup import warm_up

ALONE = tiny_spec(cameras=())
JOINTS = ['shoulder', 'elbow', 'wrist', 'x', 'y']


def test_the_newest_state_is_the_instant():
    loop = make_loop(ALONE)
    for stamp in range(START, START + 4 * STEP, STEP // 5):
        feed(loop, stamp)
    newest = START + 4 * STEP - STEP // 5
    seen = loop.observe(newest)
    assert seen.stamp_ns == newest and seen.skew_ns == 0 and not seen.frames
    np.testing.assert_array_equal(seen.states, [state_at(newest - STEP), state_at(newest)])
    plan = loop.plan(newest)
    assert isinstance(plan, Plan) and plan.chunk.stamp_ns == newest
    assert loop.newest.stamp_ns == newest and not loop.engine.encoded


def test_a_state_that_is_stale_or_missing_is_the_reason_for_no_plan():
    loop = make_loop(ALONE)
    assert loop.plan(START) == NotReady('no robot state yet', ROBOT, 'missing')
    feed(loop, START)
    late = loop.plan(START + loop.settings.observation_timeout_ns + MS)
    assert (late.source, late.kind) == (ROBOT, 'stale')


def test_it_warms_up_and_leaves_nothing_behind():
    loop = make_loop(ALONE)
    assert set(warm_up(loop)) == {1, 2, 4} and loop.newest is None


def test_a_bag_without_images_is_replayed(tmp_path):
    path = bags.write(tmp_path / 'bag', bags.messages(without=(bags.FRONT,)))
    runs = [replay(path, spec=ALONE) for _ in range(2)]
    told = figures(runs[0][0], ALONE.action, 10.0)
    assert runs[0][1].sha256 == runs[1][1].sha256 and told['matched'] > 20
    assert told['rungs']['fresh'] > 5 and told['cache'] == {'hits': 0, 'misses': 0,
                                                             'hit_ratio': None}
    assert told['observation_age_s']['p50'] < 0.1


@pytest.mark.parametrize('acts', [ACTIONS, ()])
def test_a_bag_without_images_has_a_row_per_period(tmp_path, acts):
    path = bags.write(tmp_path / 'bag', bags.messages(without=(bags.FRONT,)))
    read = BagRows(path, Wanted((), STATES, acts, 10.0, {}))
    rows = read.streams
    assert list(read.ends) == [len(rows['state'])] and len(rows['state']) >= 28
    np.testing.assert_allclose(rows['state'][:9], [state_at(START + k * STEP) for k in range(9)],
                               rtol=1e-6)
    if acts:
        np.testing.assert_allclose(rows['action'][:9], [
            bags.operated(START + k * STEP) for k in range(9)], rtol=1e-6)


@pytest.fixture(scope='module')
def imported(tmp_path_factory):
    """Return the bundle of a checkpoint of the original code."""
    pytest.importorskip('torch', reason='importing needs torch')
    pytest.importorskip('onnx', reason='importing needs onnx')
    from test_import_original import save
    folder = tmp_path_factory.mktemp('imported')
    path = save(folder / 'latest.ckpt', 'lowdim_transformer_ddim', trained=True)
    assert main(['import', str(path), '--out', str(folder / 'made'), '--rate', '20',
                 '--steps', '2', '--state', ','.join(JOINTS), '--action', 'x,y,wrist']) == 0
    return folder / 'made'


def test_its_bundle_gives_the_chunk_of_the_original_code(imported, tmp_path):
    from golden import drawn
    from test_import_original import CASES
    case = CASES['lowdim_transformer_ddim']
    features = {'obs': {'type': 'STATE', 'shape': [5]}}
    np.savez(tmp_path / 'seen.npz', state=drawn.observation(features, 3)['obs'])
    np.save(tmp_path / 'noise.npy', drawn.noise((5, 3)))
    assert main(['infer', '--policy', str(imported), '--steps', '10', '--observation',
                 str(tmp_path / 'seen.npz'), '--noise', str(tmp_path / 'noise.npy'), '--out',
                 str(tmp_path / 'chunk.npy')]) == 0
    np.testing.assert_allclose(np.load(tmp_path / 'chunk.npy'), case['chunk'], atol=1e-4)


def test_its_plans_are_measured(imported, tmp_path):
    out = tmp_path / 'bench.json'
    assert main(['bench', '--policy', str(imported), '--engine', 'onnxruntime', '--steps', '2',
                 '--repeats', '3', '--json', str(out)]) == 0
    rows = json.loads(out.read_text())['rows']
    assert {row['what'] for row in rows} == {'plan', 'denoiser'}
    assert all(row['cameras'] == 0 and row['image'] is None for row in rows)


def test_the_node_plans_from_states(imported, robot, make_node):
    pytest.importorskip('rclpy', reason='the node needs ROS 2')
    from ros_rig import drive
    robot.names, robot.position = JOINTS, [0.1, 0.2, 0.3, 0.4, 0.5]
    drive(robot, make_node, policy=str(imported), enable_output=True)
    robot.until(lambda: len(robot.actions) > 5, 'actions')
    assert robot.actions[-1].joint_names == ['x', 'y', 'wrist']
    assert not np.isnan(robot.ticks[-1].observation_age_s)
