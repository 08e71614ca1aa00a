"""One plan from files equals the plan of the loop, and bad files get one clear line."""

import json

import numpy as np
import pytest

from diffusion_policy_rt.cli.main import main
from diffusion_policy_rt.engines.bundle import read_bundle
from diffusion_policy_rt.engines.load import load_engine
from diffusion_policy_rt.replay.infer import infer
from diffusion_policy_rt.runtime.clock import ManualClock
from diffusion_policy_rt.runtime.frame import Frame
from diffusion_policy_rt.runtime.loop import PolicyLoop
from diffusion_policy_rt.runtime.settings import LoopSettings
from diffusion_policy_rt.sim.pusht import PushT


@pytest.fixture(scope='module')
def scene():
    """Two frames and states of one robot, one period apart."""
    robot = PushT()
    robot.reset(100_000)
    pictures, states = [], []
    for _ in range(2):
        pictures.append(robot.render())
        states.append(robot.tool)
        robot.step(np.array([200.0, 200.0]))
    return np.stack(pictures), np.array(states, np.float32)


@pytest.fixture
def files(scene, tmp_path):
    noise = np.random.default_rng(5).standard_normal((16, 2)).astype(np.float32)
    np.savez(tmp_path / 'o.npz', front=scene[0], state=scene[1])
    np.save(tmp_path / 'n.npy', noise)
    return tmp_path


def command(folder, *more):
    return main(['infer', '--observation', str(folder / 'o.npz'), '--noise',
                 str(folder / 'n.npy'), '--out', str(folder / 'c.npy'), *more])


def test_the_command_writes_a_chunk_in_units(files):
    assert command(files, '--steps', '4', '--json', str(files / 'r.json')) == 0
    chunk = np.load(files / 'c.npy')
    assert chunk.shape == (16, 2) and chunk.dtype == np.float32
    assert (chunk >= 0).all() and (chunk <= 512).all()
    assert json.loads((files / 'r.json').read_text())['chunk'] == chunk.tolist()


def test_the_same_noise_gives_the_same_chunk_and_other_noise_another(files):
    chunks = []
    for seed in (5, 5, 6):
        noise = np.random.default_rng(seed).standard_normal((16, 2)).astype(np.float32)
        np.save(files / 'n.npy', noise)
        command(files, '--steps', '2')
        chunks.append(np.load(files / 'c.npy'))
    assert np.array_equal(chunks[0], chunks[1]) and not np.array_equal(chunks[0], chunks[2])


def test_offline_equals_the_loop_on_the_same_frames_and_noise(scene):
    bundle = read_bundle('pusht_teacher')  # whose schedule draws no more noise
    spec, engine, step = bundle.spec, load_engine(bundle), bundle.spec.step_ns
    loop = PolicyLoop(spec, engine, LoopSettings(min_steps=4, max_steps=4), ManualClock(), seed=3)
    stamps = (7 * step, 8 * step)
    for stamp, picture, state in zip(stamps, *scene):
        loop.observe_frame(Frame.of('front', stamp, picture))
        loop.observe_state(stamp, stamp, state.astype(float))
    live = loop.plan(stamps[1]).chunk
    noise = np.random.default_rng((3, stamps[1])).standard_normal((16, 2), np.float32)
    offline = infer(spec, engine, {'front': scene[0], 'state': scene[1]}, noise, 4)
    assert np.array_equal(live.actions, offline)


def test_both_engines_agree(files):
    pytest.importorskip('torch', reason='the torch engine needs torch')
    chunks = []
    for engine in ('torch', 'onnxruntime'):
        assert command(files, '--steps', '8', '--engine', engine) == 0
        chunks.append(np.load(files / 'c.npy'))
    assert np.abs(chunks[0] - chunks[1]).max() < 0.05  # px of 512


BAD = {
    'no camera': ({'state': np.zeros((2, 2), 'f4')}, "lacks 'front'"),
    'no state': ({'front': np.zeros((2, 96, 96, 3), 'u1')}, "lacks 'state'"),
    'one frame': ({'front': np.zeros((1, 96, 96, 3), 'u1'), 'state': np.zeros((2, 2), 'f4')},
                  'front: expected'),
    'float image': ({'front': np.zeros((2, 96, 96, 3), 'f4'), 'state': np.zeros((2, 2), 'f4')},
                    'front: expected'),
    'small image': ({'front': np.zeros((2, 32, 32, 3), 'u1'), 'state': np.zeros((2, 2), 'f4')},
                    'smaller'),
    'nan state': ({'front': np.zeros((2, 96, 96, 3), 'u1'),
                   'state': np.full((2, 2), np.nan, 'f4')}, 'not finite'),
    'strange camera': ({'front': np.zeros((2, 96, 96, 3), 'u1'), 'state': np.zeros((2, 2), 'f4'),
                        'wrist': np.zeros((2, 96, 96, 3), 'u1')}, "no camera 'wrist'"),
}


@pytest.mark.parametrize('case', BAD)
def test_a_bad_observation_gets_one_line_and_no_file(case, files, capsys):
    arrays, reason = BAD[case]
    np.savez(files / 'o.npz', **arrays)
    assert command(files) == 1
    error = capsys.readouterr().err.strip()
    assert reason in error and '\n' not in error
    assert not (files / 'c.npy').exists()


def test_a_pickle_is_not_read(files, capsys):
    np.save(files / 'n.npy', np.array([{'a': 1}], dtype=object), allow_pickle=True)
    assert command(files) == 1 and 'cannot read' in capsys.readouterr().err
