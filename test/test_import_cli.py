"""`dprt import` as a user runs it: layouts, what is refused, and that nothing is left behind."""

import json
import shutil

import numpy as np
import pytest

pytest.importorskip('torch', reason='importing needs torch')
pytest.importorskip('onnx', reason='importing needs onnx')

from golden import drawn, rebuild  # noqa: E402
from safetensors.numpy import load_file, save_file  # noqa: E402
from test_data import (  # noqa: E402
    FPS, STREAMS, VIDEO_KEY, write_lerobot_v2, write_lerobot_v3)
from test_import import load, plan  # noqa: E402

from diffusion_policy_rt.cli.main import main  # noqa: E402
from diffusion_policy_rt.engines.bundle import read_bundle  # noqa: E402
from diffusion_policy_rt.engines.load import load_engine  # noqa: E402
from diffusion_policy_rt.errors import BundleError  # noqa: E402
from diffusion_policy_rt.train.importing.data import learn  # noqa: E402
from diffusion_policy_rt.train.importing.lerobot import read_lerobot  # noqa: E402
from diffusion_policy_rt.train.recipe import parse_recipe  # noqa: E402

NAME = 'shared'


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """Return a checkpoint of two cameras."""
    return rebuild.write(rebuild.cases()[NAME], tmp_path_factory.mktemp('lerobot') / 'source')


@pytest.fixture
def copy(whole, tmp_path):
    """Return a copy to spoil."""
    return shutil.copytree(whole, tmp_path / 'source')


def change(folder, **values):
    """Change the configuration."""
    path = folder / 'config.json'
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def make_old(folder):
    """Put the statistics among the weights, as LeRobot did before it had processors."""
    tensors = load_file(folder / 'model.safetensors')
    for key, stats in drawn.statistics(rebuild.features(rebuild.cases()[NAME])).items():
        head = 'unnormalize_outputs' if key == 'action' else 'normalize_inputs'
        for name, value in stats.items():
            tensors[f'{head}.buffer_{key.replace(".", "_")}.{name}'] = value
    save_file(tensors, folder / 'model.safetensors')
    for path in folder.glob('policy_p*'):
        path.unlink()


def test_the_old_layout_gives_the_same_chunk(copy):
    make_old(copy)
    source, spec, networks = load(copy)
    case = rebuild.cases()[NAME]
    found = plan(spec, networks, case, source.sampling.steps)[spec.n_obs - 1:][:8]
    assert np.allclose(found, case['chunk'], atol=1e-5)


def test_the_bundle_serves_the_same_chunk_under_the_robots_names(whole, tmp_path):
    joints = [f'joint{i}' for i in range(7)]
    code = main(['import', str(whole), '--out', str(tmp_path / 'made'), '--rate', '20',
                 '--state', ','.join(joints), '--camera', 'hand=observation.images.wrist',
                 '--steps', '4', '--json', str(tmp_path / 'result.json')])
    made = read_bundle(tmp_path / 'made')
    case = rebuild.cases()[NAME]
    found = plan(made.spec, load_engine(made, 'onnxruntime'), case, 10)[1:9]
    assert code == 0 and made.spec.steps == (4, 10) and made.spec.rate == 20
    assert [c.name for c in made.spec.cameras] == ['top', 'hand']
    recipe = parse_recipe(made.training['recipe'])
    assert recipe.cameras['hand'].keys == ['observation.images.wrist']
    assert made.spec.state.names == tuple(joints)
    assert np.allclose(found, case['chunk'], atol=1e-4)
    assert json.loads((tmp_path / 'result.json').read_text())['statistics'] == 'source'


def make_untrained(folder):
    """Put statistics among the weights that were never set: LeRobot begins with infinities."""
    make_old(folder)
    tensors = load_file(folder / 'model.safetensors')
    spoiled = {name: np.full_like(value, np.inf) if '.buffer_' in name else value
               for name, value in tensors.items()}
    save_file(spoiled, folder / 'model.safetensors')


def blow_up(folder):
    """Make a weight infinite, as a training that diverged does."""
    tensors = load_file(folder / 'model.safetensors')
    next(value for value in tensors.values() if value.ndim > 1)[0] = np.inf
    save_file(tensors, folder / 'model.safetensors')


SPOILED = {
    'statistics never set': (make_untrained, 'finite values'),
    'a weight that is no number': (blow_up, 'a weight is not finite'),
    'another policy': (lambda f: change(f, type='act'), "type 'act'"),
    'a silent identity': (lambda f: change(f, num_inference_steps=200), 'num_inference_steps'),
    'another encoder': (lambda f: change(f, vision_backbone='resnet50'), 'resnet50'),
    'another noise schedule': (lambda f: change(f, beta_schedule='sigmoid'), 'sigmoid'),
    'another prediction': (lambda f: change(f, prediction_type='v'), "'v'"),
    'other weights': (lambda f: change(f, down_dims=[16, 64]), 'belong together'),
    'a width that is missing': (lambda f: change(f, n_obs_steps=None), 'n_obs_steps'),
    'a word for a number': (lambda f: change(f, horizon='16'), 'horizon must be a whole number'),
    'features of another form': (lambda f: change(f, input_features=['image']),
                                 'each with a type'),
    'more actions than the chunk has': (lambda f: change(f, n_action_steps=40), 'n_action_steps'),
    'processors of another form': (lambda f: (f / 'policy_preprocessor.json').write_text(
        '{"steps": 5}'), 'of a form'),
    'no statistics': (lambda f: [p.unlink() for p in f.glob('policy_p*')], '--data'),
    'a truncated file': (lambda f: (f / 'model.safetensors').write_bytes(b'1234'), 'copy'),
    'no weights': (lambda f: (f / 'model.safetensors').unlink(), 'model.safetensors'),
    'no JSON': (lambda f: (f / 'config.json').write_text('{'), 'damaged'),
    'no checkpoint': (lambda f: (f / 'config.json').unlink(), 'no policy'),
}


@pytest.mark.parametrize('what', SPOILED)
def test_what_is_not_supported_is_refused_in_one_line(what, copy, capsys):
    spoil, said = SPOILED[what]
    spoil(copy)
    out = copy.parent / 'made'
    assert main(['import', str(copy), '--out', str(out), '--rate', '10']) == 1
    message = capsys.readouterr().err
    assert said in message and message.count('\n') == 1
    assert sorted(p.name for p in copy.parent.iterdir()) == ['source']


@pytest.mark.parametrize('more, said', [
    ([], '--rate'), (['--rate', '10', '--camera', 'a=observation.images.rear'], 'rear'),
    (['--rate', '10', '--state', 'a,b'], '7 values'),
    (['--rate', '10', '--action', 'a,b,a'], 'stands twice'),
    (['--rate', '10', '--camera', 'eye=observation.images.top',
      '--camera', 'eye=observation.images.wrist'], 'names eye twice'),
    (['--rate', '10', '--camera', 'top=observation.images.wrist'], 'distinct names')])
def test_names_that_do_not_fit_are_refused(whole, tmp_path, capsys, more, said):
    assert main(['import', str(whole), '--out', str(tmp_path / 'made'), *more]) == 1
    assert said in capsys.readouterr().err and not any(tmp_path.iterdir())


def test_a_hub_name_that_cannot_be_fetched_is_one_line(monkeypatch, tmp_path, capsys):
    hub = pytest.importorskip('huggingface_hub')

    def unreachable(*args, **kwargs):
        raise OSError('no network')

    monkeypatch.setattr(hub, 'snapshot_download', unreachable)
    assert main(['import', 'someone/policy', '--out', str(tmp_path / 'made'), '--rate', '1']) == 1
    assert 'download it elsewhere' in capsys.readouterr().err


@pytest.mark.parametrize('write', [write_lerobot_v2, write_lerobot_v3])
def test_a_data_set_tells_statistics_and_rate(write, tmp_path):
    known = learn(str(write(tmp_path / 'data', embed=False)))
    state, image = known.statistics['observation.state'], known.statistics[VIDEO_KEY]
    assert known.rate == FPS
    assert np.allclose(state['min'], STREAMS['state'].min(0))
    assert np.allclose(state['std'], STREAMS['state'].std(0), rtol=1e-5)
    assert np.allclose(image['mean'], STREAMS['img'].mean((0, 1, 2)) / 255, atol=0.02)


def test_data_that_lack_a_camera_of_the_policy_s_are_refused(whole, tmp_path, capsys):
    data = write_lerobot_v3(tmp_path / 'data', embed=False)
    assert main(['import', str(whole), '--out', str(tmp_path / 'made'), '--data', str(data)]) == 1
    message = capsys.readouterr().err
    assert 'observation.images.' in message and 'the data lack' in message
    assert message.count('\n') == 1 and not (tmp_path / 'made').exists()


def test_data_stand_in_for_lacking_statistics_only(copy):
    case = rebuild.cases()[NAME]
    stats = drawn.statistics(rebuild.features(case))
    other = {key: {name: value + 1 for name, value in of.items()} for key, of in stats.items()}
    assert read_lerobot(copy, other).statistics == 'source'
    for path in copy.glob('policy_p*'):
        path.unlink()
    found = read_lerobot(copy, other)
    assert found.statistics == 'data'
    middle = (other['action']['min'] + other['action']['max']) / 2
    assert np.allclose(found.action.offset, middle)
    del other['observation.images.top']
    with pytest.raises(BundleError, match='observation.images.top'):
        read_lerobot(copy, other)
