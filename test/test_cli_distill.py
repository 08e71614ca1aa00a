"""`dprt distill` end to end on a few synthetic episodes: bundles, resume, bad input."""

import json
import shutil
import sys

import numpy as np
import pytest
import yaml

torch = pytest.importorskip('torch', reason='training needs torch')

from diffusion_policy_rt.cli.distill import NAMES  # noqa: E402
from diffusion_policy_rt.cli.main import main  # noqa: E402
from diffusion_policy_rt.engines.bundle import read_bundle, write_bundle  # noqa: E402
from diffusion_policy_rt.engines.load import installed, load_engine  # noqa: E402
from diffusion_policy_rt.runtime.sampler import sample  # noqa: E402
from diffusion_policy_rt.share import find  # noqa: E402
from diffusion_policy_rt.errors import DprtError  # noqa: E402
from diffusion_policy_rt.train.distill.fastgen_net import fastgen  # noqa: E402
from diffusion_policy_rt.train.distill.methods import METHODS  # noqa: E402
from diffusion_policy_rt.train.distill.recipe import load_distill_recipe  # noqa: E402
from diffusion_policy_rt.train.distill.trainer import DistillTrainer  # noqa: E402

VECTOR = {'keys': ['state'], 'names': ['x', 'y'], 'units': ['px', 'px'], 'low': [0, 0],
          'high': [100, 100]}
RECIPE = {
    'name': 'toy', 'rate': 10.0,
    'cameras': {'front': {'keys': ['img'], 'height': 24, 'width': 24}},
    'state': VECTOR, 'action': {**VECTOR, 'keys': ['action'], 'reference': 'state'},
    'n_obs': 2, 'horizon': 8, 'n_action_steps': 4, 'steps': [1, 4],
    'encoder': {'kind': 'keypoint', 'keypoints': 2, 'channels': 4, 'dilations': [1]},
    'denoiser': {'kind': 'mlp', 'width': 16, 'layers': 1, 'step_dim': 8},
    'train': {'epochs': 1, 'batch_size': 16, 'learning_rate': 1e-3},
}
TRAIN = {'epochs': 3, 'batch_size': 16, 'learning_rate': 1e-3, 'validation_ratio': 0.25,
         'validation_sets': 4, 'latent_noise': 0.01}


def write_data(folder, width=2):
    rng = np.random.default_rng(0)
    state = np.clip(np.cumsum(rng.normal(0, 4, (80, 2)), 0) + 50, 5, 95).astype(np.float32)
    images = np.zeros((80, 24, 24, 3), np.uint8)
    for image, (x, y) in zip(images, (state * 0.24).astype(int)):
        image[max(0, y - 2):y + 2, max(0, x - 2):x + 2] = 255
    folder.mkdir(exist_ok=True)
    np.savez(folder / 'a.npz', img=images, state=state, episode_ends=np.arange(20, 81, 20),
             action=np.tile(state, 2)[:, :width] + 3)
    return folder


@pytest.fixture(scope='module')
def toy(tmp_path_factory):
    """Return the data, and a teacher's bundle trained on them for one epoch."""
    folder = tmp_path_factory.mktemp('toy')
    data = write_data(folder / 'data')
    (folder / 'recipe.yaml').write_text(yaml.safe_dump(RECIPE))
    assert main(['train', '--data', str(data), '--recipe', str(folder / 'recipe.yaml'), '--out',
                 str(folder / 'teacher'), '--threads', '1']) == 0
    return data, folder / 'teacher/bundle'


def distill(toy, out, method, /, *more, teacher=None, data=None, **changes):
    shipped = load_distill_recipe(f'distill_{method.replace("-", "_")}', method).source
    recipe = {**shipped, 'train': {**TRAIN, 'beta1': 0.5}, **changes}
    out.mkdir(exist_ok=True)
    (out / 'recipe.yaml').write_text(yaml.safe_dump(recipe))
    return main(['distill', '--teacher', str(teacher or toy[1]), '--data', str(data or toy[0]),
                 '--method', method, '--out', str(out / 'run'), '--recipe',
                 str(out / 'recipe.yaml'), '--threads', '1', *more])


def fastgen_installed():
    try:
        return bool(fastgen('methods'))
    except DprtError:
        return False


def weights(out):
    return (out / 'run/bundle/weights.safetensors').read_bytes()


@pytest.mark.parametrize('method', METHODS)
def test_every_method_writes_a_student_that_every_engine_runs(toy, tmp_path, method):
    if method == 'dmd2':
        pytest.importorskip('modelopt.torch.fastgen')
    if method.startswith('fastgen') and not fastgen_installed():
        pytest.skip("NVIDIA's FastGen is not installed")
    assert distill(toy, tmp_path, method, '--json', str(tmp_path / 'r.json')) == 0
    bundle, teacher = read_bundle(tmp_path / 'run/bundle'), read_bundle(toy[1])
    facts, result = bundle.training, json.loads((tmp_path / 'r.json').read_text())
    assert (facts['method'], facts['seed']) == (method, 0)
    assert facts['teacher'] == teacher.files['weights.safetensors']['sha256']
    assert facts['teacher_recipe'] == teacher.training['recipe']
    assert bundle.spec.steps == ((1,) if method == 'onedp-d' else (1, 2, 4, 8))
    assert len(result['history']) == 3 and facts['measures'] in result['history']
    assert {f'{what}_{n}' for what in ('energy', 'spread') for n in bundle.spec.steps} == set(
        facts['measures'])
    assert (tmp_path / 'run/curves.png').stat().st_size > 1000
    noise, cond = np.ones((8, 2)), np.zeros(bundle.spec.cond_dim, np.float32)
    for name in installed():
        engine = load_engine(bundle, name)
        for schedule in bundle.spec.schedules.values():
            assert np.isfinite(sample(
                lambda x, s, stop, e=engine: e.denoise(x, s, cond, stop), schedule, noise,
                bundle.spec.precond.sigma_data, bundle.spec.clip)).all()


@pytest.mark.parametrize('method', ['onedp-s', 'consistency'])
def test_a_run_killed_in_the_middle_resumes_to_the_same_weights(
        toy, tmp_path, monkeypatch, method):
    step = DistillTrainer.train_step
    distill(toy, tmp_path / 'whole', method)

    def killed(self):
        if self.step == 7:  # in the second of three epochs of three steps, or the third
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(DistillTrainer, 'train_step', killed)
    assert distill(toy, tmp_path / 'cut', method) == 130
    assert not (tmp_path / 'cut/run/bundle').exists()
    monkeypatch.setattr(DistillTrainer, 'train_step', step)
    assert distill(toy, tmp_path / 'cut', method) == 0
    assert weights(tmp_path / 'cut') == weights(tmp_path / 'whole')


def test_the_encoder_is_the_teacher_s(toy, tmp_path):
    from safetensors.torch import load_file
    distill(toy, tmp_path, 'onedp-d')
    own, its = (load_file(folder / 'weights.safetensors')
                for folder in (tmp_path / 'run/bundle', toy[1]))
    assert all(torch.equal(own[k], its[k]) for k in its if k.startswith('encoders'))
    assert any(not torch.equal(own[k], its[k]) for k in its if k.startswith('denoiser'))


def test_a_loss_that_is_not_finite_is_one_line_and_spares_the_checkpoint(
        toy, tmp_path, monkeypatch, capsys):
    from diffusion_policy_rt.train.distill.consistency import Consistency
    assert distill(toy, tmp_path, 'consistency', '--epochs', '3') == 0
    shutil.rmtree(tmp_path / 'run')
    real, calls = Consistency.student_loss, []

    def poisoned(self, *args):
        calls.append(1)
        return real(self, *args) * (float('nan') if len(calls) == 5 else 1)

    monkeypatch.setattr(Consistency, 'student_loss', poisoned)
    assert distill(toy, tmp_path, 'consistency', '--epochs', '3') == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert 'non-finite at step 4' in last and 'student.ckpt' in last
    saved = torch.load(tmp_path / 'run/student.ckpt', weights_only=True)
    assert saved['step'] == 3 and all(v.isfinite().all() for v in saved['module'].values())


def no_recipe(toy, tmp_path):
    """Return a copy of the teacher that does not tell how it was trained."""
    bundle = read_bundle(toy[1])
    return write_bundle(tmp_path / 'bare', {
        'spec': bundle.spec.to_json(), 'model': dict(bundle.model)},
        lambda folder: [shutil.copy(bundle.path(f), folder / f) for f in bundle.files]).folder


def other_network(toy, tmp_path):
    """Return a copy of the teacher whose model is wider than its weights."""
    bundle = read_bundle(toy[1])
    model = {**bundle.model, 'denoiser': {**bundle.model['denoiser'], 'width': 24}}
    return write_bundle(tmp_path / 'other', {
        'spec': bundle.spec.to_json(), 'model': model, 'training': dict(bundle.training)},
        lambda folder: [shutil.copy(bundle.path(f), folder / f) for f in bundle.files]).folder


def no_weights(toy, tmp_path):
    """Return a copy of the teacher without its weights."""
    shutil.copytree(toy[1], tmp_path / 'empty')
    (tmp_path / 'empty/weights.safetensors').unlink()
    return tmp_path / 'empty'


def student(toy, tmp_path):
    """Return a student in a teacher's place."""
    distill(toy, tmp_path, 'onedp-d')
    return tmp_path / 'run/bundle'


@pytest.mark.parametrize('make, reason', [
    (lambda toy, tmp_path: '/nowhere', '/nowhere is no bundle'),
    (no_recipe, 'does not tell the recipe'), (other_network, 'weights do not fit the model'),
    (no_weights, 'weights.safetensors is missing'), (student, 'is itself a student')])
def test_a_teacher_that_cannot_teach_gets_one_line(toy, tmp_path, capsys, make, reason):
    teacher, out = make(toy, tmp_path), tmp_path / 'second'
    assert distill(toy, out, 'onedp-s', teacher=teacher) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert reason in lines[-1] and 'Traceback' not in ''.join(lines)
    assert not (out / 'run').exists()


def test_data_of_another_action_dimension_get_one_line(toy, tmp_path, capsys):
    data = write_data(tmp_path / 'wide', width=3)
    assert distill(toy, tmp_path, 'onedp-s', data=data) == 1
    assert "'action' has 3 columns" in capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize('method, changes, reason', [
    ('onedp-s', {'loss': {'levles': [1.0]}}, "'levles'"),
    ('onedp-s', {'steps': [3]}, '3 steps do not divide'),
    ('onedp-d', {'steps': [1, 2]}, 'onedp-d serves one step'),
    ('dmd2', {'method': 'meanflow'}, "is for method 'meanflow'"),
    ('consistency', {'loss': {'solver': 'rk4'}}, 'heun or euler')])
def test_a_recipe_that_contradicts_itself_gets_one_line(
        toy, tmp_path, capsys, method, changes, reason):
    assert distill(toy, tmp_path, method, **changes) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert reason in lines[-1] and not (tmp_path / 'run').exists()


def test_dmd2_without_modelopt_says_what_to_install(toy, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, 'modelopt.torch.fastgen', None)
    assert distill(toy, tmp_path, 'dmd2') == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert 'pip install "diffusion_policy_rt[distill]"' in last


def evaluated(toy, tmp_path):
    """Return a copy of the teacher that was evaluated in the meantime."""
    bundle = read_bundle(toy[1])
    return write_bundle(tmp_path / 'evaluated', {
        'spec': bundle.spec.to_json(), 'model': dict(bundle.model), 'quality': {'score': 1},
        'training': dict(bundle.training)},
        lambda folder: [shutil.copy(bundle.path(f), folder / f) for f in bundle.files]).folder


def test_the_run_of_another_seed_is_refused_that_of_the_same_teacher_is_not(
        toy, tmp_path, capsys):
    assert distill(toy, tmp_path, 'onedp-d') == 0
    before = weights(tmp_path)
    assert distill(toy, tmp_path, 'onedp-d', '--seed', '1') == 1
    assert 'another recipe, seed or data' in capsys.readouterr().err
    assert distill(toy, tmp_path, 'onedp-d', teacher=evaluated(toy, tmp_path)) == 0
    assert weights(tmp_path) == before


@pytest.mark.parametrize('method', NAMES)
def test_every_method_of_the_command_has_a_recipe_that_is_sound(method):
    name = f'distill_{method.replace("-", "_")}'
    recipe = load_distill_recipe(name, method, epochs=7)
    assert find(f'config/recipes/{name}.yaml') and recipe.train.epochs == 7
    assert set(METHODS[method].schedules(recipe.loss, recipe.steps)) == set(recipe.steps)


def test_the_command_s_methods_are_those_of_the_table():
    assert set(NAMES) == set(METHODS)
