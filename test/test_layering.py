"""What may import what: seen in a fresh process, because another test may have imported torch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import diffusion_policy_rt
from diffusion_policy_rt.sim.tasks import TASKS

ROOT = Path(diffusion_policy_rt.__file__).parent
HEAVY = ('torch', 'onnx', 'onnxruntime', 'openvino', 'tensorrt', 'rclpy')
TRAINING = tuple(f'diffusion_policy_rt.{room}' for room in ('model', 'train'))


def modules(*rooms):
    """Return the modules of these rooms; a room that does not exist yet has none."""
    files = [f for room in rooms for f in sorted((ROOT / room).rglob('*.py'))]
    names = ['.'.join(f.relative_to(ROOT.parent).with_suffix('').parts) for f in files]
    return [name.removesuffix('.__init__') for name in names]


def loaded_by(names):
    """Return the modules that importing these loads, or None with the reason when it fails."""
    code = ('import importlib, json, sys\n'
            'for name in json.loads(sys.argv[1]): importlib.import_module(name)\n'
            'print(json.dumps(sorted(sys.modules)))')
    done = subprocess.run([sys.executable, '-c', code, json.dumps(names)], text=True,
                          capture_output=True, cwd=ROOT.parent)
    return (json.loads(done.stdout), '') if done.returncode == 0 else (None, done.stderr)


def found(loaded, banned):
    return [m for m in loaded if any(m == b or m.startswith(b + '.') for b in banned)]


LIGHT = [*modules('runtime'), 'diffusion_policy_rt.spec', 'diffusion_policy_rt.errors',
         'diffusion_policy_rt.engines.bundle', 'diffusion_policy_rt.engines.load']


def test_the_heart_the_spec_and_the_loader_load_no_engine_and_no_ros():
    loaded, error = loaded_by(LIGHT)
    assert loaded is not None, error
    assert not found(loaded, (*HEAVY, *TRAINING))


def test_each_module_of_the_heart_can_be_imported_alone():
    for name in modules('runtime'):
        loaded, error = loaded_by([name])
        assert loaded is not None, f'{name}: {error}'


def test_the_networks_load_no_engine_no_training_and_no_ros():
    loaded, error = loaded_by(modules('model'))
    if loaded is None and "No module named 'torch'" in error:
        pytest.skip('torch is not installed')
    assert loaded is not None, error
    assert not found(loaded, ('onnxruntime', 'openvino', 'tensorrt', 'rclpy', TRAINING[1],
                              'diffusion_policy_rt.engines', 'diffusion_policy_rt.ros'))


@pytest.mark.parametrize('name', modules('ros', 'replay', 'sim'))
def test_what_runs_beside_the_robot_loads_no_model_and_no_training(name):
    loaded, error = loaded_by([name])
    missing = error.strip().rpartition("No module named '")[2].rstrip("'")
    if loaded is None and missing and not missing.startswith('diffusion_policy_rt'):
        pytest.skip(f'{missing} is not installed')
    assert loaded is not None, error
    assert not found(loaded, TRAINING)
    if name.startswith('diffusion_policy_rt.sim'):
        assert not found(loaded, ('rclpy',))


def test_a_bag_is_replayed_without_ros():
    loaded, error = loaded_by(['diffusion_policy_rt.replay.session'])
    if loaded is None and 'No module named' in error and 'diffusion_policy_rt' not in (
            error.rpartition('No module named')[2]):
        pytest.skip(error.strip().splitlines()[-1])
    assert loaded is not None, error
    assert not found(loaded, ('rclpy', 'torch', 'onnxruntime'))


def test_only_the_simulated_robots_know_joints_and_limits():
    """A user's robot is in his bundle and his parameters, and ours are no better."""
    facts = [value for task in TASKS.values() for value in (*task.joints, *task.low, *task.high)]
    known = {word for word in map(str, facts) if len(word) > 4}
    told = {f'{path.relative_to(ROOT)}: {word}' for path in ROOT.rglob('*.py')
            for word in known if path.parent.name != 'sim' and word in path.read_text()}
    assert len(known) > 8 and not told


def test_the_heart_and_what_imports_policies_load_no_simulated_robot():
    loaded, error = loaded_by([*LIGHT, *modules('train/importing')])
    if loaded is None and "No module named 'torch'" in error:
        pytest.skip('torch is not installed')
    assert loaded is not None, error
    assert not found(loaded, ('diffusion_policy_rt.sim',))
