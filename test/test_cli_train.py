"""`dprt train` end to end on a few synthetic episodes: bundle, resume, processes, bad input."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import yaml

pytest.importorskip('torch', reason='training needs torch')

from diffusion_policy_rt.cli.main import main  # noqa: E402
from diffusion_policy_rt.engines.bundle import read_bundle  # noqa: E402

VECTOR = {'keys': ['state'], 'names': ['x', 'y'], 'units': ['px', 'px'], 'low': [0, 0],
          'high': [100, 100]}
RECIPE = {
    'name': 'toy', 'rate': 10.0,
    'cameras': {'front': {'keys': ['img'], 'height': 24, 'width': 24}},
    'state': VECTOR, 'action': {**VECTOR, 'keys': ['action'], 'reference': 'state'},
    'n_obs': 2, 'horizon': 8, 'n_action_steps': 4, 'steps': [1, 2],
    'encoder': {'kind': 'keypoint', 'keypoints': 2, 'channels': 4, 'dilations': [1]},
    'denoiser': {'kind': 'mlp', 'width': 16, 'layers': 1, 'step_dim': 8},
    'pretrain': {'keys': ['keypoint'], 'extent': [100, 100], 'max_shift': 2, 'epochs': 2,
                 'batch_size': 16, 'learning_rate': 1e-3},
    'train': {'epochs': 3, 'batch_size': 16, 'learning_rate': 1e-3, 'validation_ratio': 0.25},
}
PIXELS = {**RECIPE, 'parametrisation': 'ddpm', 'ddpm_levels': 8, 'steps': [1, 2, 8],
          'cameras': {'front': {'keys': ['img'], 'height': 24, 'width': 24, 'crop': [20, 20]}},
          'encoder': {'kind': 'resnet', 'keypoints': 2, 'latent_dim': 4, 'width': 16,
                      'blocks': [1, 1]},
          'denoiser': {'kind': 'unet', 'down_dims': [8, 16], 'groups': 4, 'step_dim': 8},
          'pretrain': None}


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Four episodes of 20 rows: a bright square that follows the state."""
    folder, rng = tmp_path_factory.mktemp('data'), np.random.default_rng(0)
    state = np.clip(np.cumsum(rng.normal(0, 4, (80, 2)), 0) + 50, 5, 95).astype(np.float32)
    images = np.zeros((80, 24, 24, 3), np.uint8)
    for image, (x, y) in zip(images, (state * 0.24).astype(int)):
        image[max(0, y - 2):y + 2, max(0, x - 2):x + 2] = 255
    np.savez(folder / 'a.npz', img=images, state=state, action=state + 3,
             keypoint=np.stack([state, state + 1], 1), episode_ends=np.arange(20, 81, 20))
    return folder


def write(folder, recipe):
    path = folder / 'recipe.yaml'
    path.write_text(yaml.safe_dump(recipe))
    return str(path)


def train(data, out, recipe, *more):
    return main(['train', '--data', str(data), '--recipe', recipe, '--out', str(out),
                 '--threads', '1', *more])


def test_options_replace_the_recipes_length_and_are_kept_in_the_bundle(data, tmp_path):
    result = tmp_path / 'r.json'
    assert train(data, tmp_path / 'run', write(tmp_path, RECIPE), '--epochs', '3',
                 '--max-episodes', '2', '--json', str(result)) == 0
    told = json.loads(result.read_text())['training']
    assert told['stages']['denoiser']['epochs'] == 3 and told['episodes'] == 2
    assert told['recipe']['train']['epochs'] == 3 and told['recipe']['max_episodes'] == 2


@pytest.mark.parametrize('recipe', [RECIPE, PIXELS], ids=['keypoints edm', 'pixels ddpm'])
def test_training_writes_a_bundle_that_runs(data, tmp_path, recipe):
    result = tmp_path / 'r.json'
    assert train(data, tmp_path / 'run', write(tmp_path, recipe), '--json', str(result)) == 0
    bundle = read_bundle(tmp_path / 'run/bundle')
    assert bundle.spec.steps == tuple(recipe['steps'])
    assert bundle.training['recipe'] == recipe and bundle.training['seed'] == 0
    assert json.loads(result.read_text())['sha256'] == bundle.digest
    assert (tmp_path / 'run/curves.png').stat().st_size > 1000
    np.savez(tmp_path / 'o.npz', front=np.zeros((2, 24, 24, 3), np.uint8),
             state=np.full((2, 2), 50, np.float32))
    np.save(tmp_path / 'n.npy', np.zeros((8, 2), np.float32))
    assert main(['infer', '--policy', str(bundle.folder), '--observation',
                 str(tmp_path / 'o.npz'), '--noise', str(tmp_path / 'n.npy'), '--out',
                 str(tmp_path / 'c.npy')]) == 0
    assert np.isfinite(np.load(tmp_path / 'c.npy')).all()


@pytest.mark.parametrize('recipe, stage', [(RECIPE, 'encoder_front'), (PIXELS, 'policy')],
                         ids=['keypoints edm', 'pixels ddpm'])
def test_images_may_be_read_while_training(data, tmp_path, capsys, recipe, stage):
    result = tmp_path / 'r.json'
    run = data, tmp_path / 'run', write(tmp_path, recipe)
    assert train(*run, '--stream', '3e-4', '--json', str(result)) == 0
    told = json.loads(result.read_text())['training']['stages'][stage]['images']
    assert told['read'] >= 60 and told['read_per_s'] > 0 and 0 <= told['waited'] <= 1
    assert read_bundle(tmp_path / 'run/bundle').spec.name == 'toy'
    assert train(*run, '--stream', '5e-4') == 1  # another order
    assert train(*run, '--stream', '1e-5') == 1
    error = capsys.readouterr().err
    assert 'or --stream; choose another --out' in error and '1e-05 GB hold no batch of 16' in error


def weights(run):
    return (run / 'bundle/weights.safetensors').read_bytes()


def test_a_run_killed_in_the_middle_resumes_to_the_same_weights(data, tmp_path, monkeypatch):
    from diffusion_policy_rt.train.trainer import Trainer
    recipe, step = write(tmp_path, RECIPE), Trainer.train_step
    train(data, tmp_path / 'whole', recipe)

    def killed(self):
        if self.checkpoint.path.stem == 'denoiser' and self.step == 5:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(Trainer, 'train_step', killed)
    assert train(data, tmp_path / 'run', recipe) == 130
    assert not (tmp_path / 'run/bundle').exists()
    monkeypatch.setattr(Trainer, 'train_step', step)
    assert train(data, tmp_path / 'run', recipe) == 0
    assert weights(tmp_path / 'run') == weights(tmp_path / 'whole')


def test_another_seed_gives_other_weights(data, tmp_path):
    recipe = write(tmp_path, RECIPE)
    train(data, tmp_path / 'a', recipe)
    train(data, tmp_path / 'b', recipe, '--seed', '1')
    assert weights(tmp_path / 'a') != weights(tmp_path / 'b')


def test_a_run_folder_of_another_recipe_is_refused_and_kept(data, tmp_path, capsys):
    train(data, tmp_path / 'run', write(tmp_path, RECIPE))
    before = weights(tmp_path / 'run')
    assert train(data, tmp_path / 'run', write(tmp_path, {**RECIPE, 'horizon': 16})) == 1
    assert 'another recipe' in capsys.readouterr().err and weights(tmp_path / 'run') == before


def test_two_processes_train_together(data, tmp_path):
    command = [sys.executable, '-m', 'torch.distributed.run', '--nproc-per-node', '2',
               '--master-port', str(20000 + os.getpid() % 10000), '-m',
               'diffusion_policy_rt.cli.main', 'train', '--data', str(data), '--recipe',
               write(tmp_path, RECIPE), '--out', str(tmp_path / 'run'), '--threads', '1']
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    assert read_bundle(tmp_path / 'run/bundle').training['processes'] == 2


BAD = {
    'a folder that is none': ({}, '/nowhere', '/nowhere'),
    'an unknown key': ({'horzion': 3}, None, "'horzion'"),
    'an unknown encoder': ({'encoder': {'kind': 'vit'}}, None, "'vit'"),
    'a stream the data lack': (
        {'cameras': {'wrist': {'keys': ['wrist'], 'height': 24, 'width': 24}}}, None, 'wrist'),
    'too many columns': ({'state': {**VECTOR, 'index': [0, 7]}}, None, 'columns'),
    'a horizon the chunk cannot have': ({'n_action_steps': 20}, None, 'n_action_steps'),
}


@pytest.mark.parametrize('case', BAD)
def test_bad_input_gets_one_line_and_leaves_nothing(data, tmp_path, capsys, case):
    change, source, reason = BAD[case]
    recipe = write(tmp_path, {**RECIPE, **change})
    assert train(source or data, tmp_path / 'run', recipe) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert reason in lines[-1] and 'Traceback' not in ''.join(lines)
    assert not (tmp_path / 'run').exists()
