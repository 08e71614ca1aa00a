"""`dprt import` against the outputs of the original code (golden/make_original.py)."""

import copy
import os
import sys
import types

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='importing needs torch')
pytest.importorskip('onnx', reason='importing needs onnx')

from golden import drawn, rebuild  # noqa: E402

from diffusion_policy_rt.cli.main import main  # noqa: E402
from diffusion_policy_rt.engines.torch_engine import TorchNetworks  # noqa: E402
from diffusion_policy_rt.errors import BundleError  # noqa: E402
from diffusion_policy_rt.runtime.frame import to_input  # noqa: E402
from diffusion_policy_rt.runtime.observation import observed  # noqa: E402
from diffusion_policy_rt.runtime.sampler import sample  # noqa: E402
from diffusion_policy_rt.train.importing.assemble import Robot, make_spec  # noqa: E402
from diffusion_policy_rt.train.importing.networks import make_policy  # noqa: E402
from diffusion_policy_rt.train.importing.original import read_original  # noqa: E402
from diffusion_policy_rt.train.importing.original_config import kind_of  # noqa: E402

CASES = rebuild.originals()
PLAIN, VECTOR = 'hybrid_transformer_uncut', 'lowdim_unet_ddim'


class DictConfig:
    """Pickles as omegaconf's class does."""

    def __init__(self, content):
        self._content = content


def save(path, name, policy=None, trained=False, **more):
    """Write a checkpoint of a case, as its own workspace does; of another policy where told.

    Its weights are zero if it is not `trained`, and those that are not averaged always are.
    """
    case = CASES[name]
    statistics = drawn.normalizer(drawn.original_features(case['policy']))
    scales = {f'normalizer.{n}': torch.from_numpy(v) for n, v in statistics.items()}
    idle = {n: torch.zeros(()).expand(shape) for n, shape in case['shapes'].items()} | scales
    weights = {n: torch.from_numpy(drawn.weight(n, shape)) for n, shape in case['shapes'].items()
               } | scales if trained else idle
    module = types.ModuleType('omegaconf.dictconfig')
    module.DictConfig, DictConfig.__module__ = DictConfig, 'omegaconf.dictconfig'
    known = sys.modules.get(module.__name__)
    sys.modules[module.__name__] = module
    try:
        torch.save({'cfg': DictConfig({'horizon': case['policy']['horizon'], 'policy': DictConfig({
            **case['policy'], 'horizon': '${horizon}', **(policy or {})})}),
            'state_dicts': {'model': idle, 'ema_model': weights}, **more}, path)
    finally:
        del sys.modules[module.__name__]
        if known:
            sys.modules[module.__name__] = known
    return path


def plan(source, spec, networks, case, steps):
    """Return the chunk of the case's observation, noise, and sampler's noise."""
    features = drawn.original_features(case['policy'])
    del features['action']
    seen = drawn.observation(features, spec.n_obs)
    latents = {ours.name: [networks.encode(ours.name, to_input(image, ours))
                           for image in seen[theirs.key]]
               for ours, theirs in zip(spec.cameras, source.cameras)}
    states = np.concatenate([seen[key] for key in source.state], axis=-1)
    cond = observed(spec, latents, states)
    noise = drawn.noise((spec.horizon, len(spec.action)))
    found = sample(lambda x, s, stop: networks.denoise(x, s, cond, stop), spec.schedule(steps),
                   noise, spec.precond.sigma_data, spec.clip, drawn.Fresh())
    return spec.decode_actions(found, states[-1])


@pytest.mark.parametrize('name', CASES)
def test_gives_the_chunk_that_the_original_code_gives(name, tmp_path):
    # as the original code keeps its counters, in bytes
    source = read_original(save(tmp_path / 'latest.ckpt', name, trained=True,
                                pickles={'epoch': b'\x80\x04K\x05.'}))
    spec = make_spec(source, Robot(10.0), 'imported')
    model = {'encoder': source.encoder, 'denoiser': source.denoiser}
    chunk = plan(source, spec, TorchNetworks(make_policy(source, spec, model)), CASES[name],
                 source.sampling.steps)
    expected = np.array(CASES[name]['chunk'])
    assert np.abs(chunk - expected).max() <= 1e-5 * max(1, np.abs(expected).max())


def test_cameras_may_swap_their_names(tmp_path):
    case = CASES['image_separate']
    source = read_original(save(tmp_path / 'latest.ckpt', 'image_separate', trained=True))
    spec = make_spec(source, Robot(10.0, cameras={'front': 'wrist', 'wrist': 'front'}), 'imported')
    model = {'encoder': source.encoder, 'denoiser': source.denoiser}
    chunk = plan(source, spec, TorchNetworks(make_policy(source, spec, model)), case,
                 source.sampling.steps)
    assert np.allclose(chunk, case['chunk'], atol=1e-5 * np.abs(case['chunk']).max())


class Harm:
    """Runs a command when a careless reader loads it."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_a_pickle_that_wants_to_run_code_is_refused_and_runs_nothing(tmp_path, capsys):
    touched = tmp_path / 'touched'
    path = save(tmp_path / 'latest.ckpt', PLAIN, pickles=Harm(f'touch {touched}'))
    assert main(['import', str(path), '--out', str(tmp_path / 'made'), '--rate', '10']) == 1
    message = capsys.readouterr().err
    assert 'system' in message and message.count('\n') == 1
    assert not touched.exists() and not (tmp_path / 'made').exists()


def encoder(**more):
    """Return a change of the image case's encoder."""
    return {'obs_encoder': {**copy.deepcopy(CASES['image_resized']['policy']['obs_encoder']),
                            **more}}


def scheduler(**more):
    """Return a change of the scheduler."""
    return {'noise_scheduler': {**CASES[PLAIN]['policy']['noise_scheduler'], **more}}


SEEN = {'obs': {'image': {'shape': [1, 44, 52], 'type': 'rgb'}}, 'action': {'shape': [3]}}
ODD = {
    'another policy': (PLAIN, {'_target_': 'policy.BETLowdimPolicy'}, 'BETLowdimPolicy'),
    'observations that are painted in': (PLAIN, {'obs_as_cond': False}, 'obs_as_cond False'),
    'the level among the actions': (PLAIN, {'time_as_cond': False}, 'time_as_cond False'),
    'layers over the observation': (PLAIN, {'n_cond_layers': 4}, 'n_cond_layers 4'),
    'the executed actions alone': (PLAIN, {'pred_action_steps_only': True}, 'pred_action'),
    'noise in DDIM': (PLAIN, {'eta': 1.0}, 'eta 1.0'),
    'another end of the levels': (PLAIN, scheduler(set_alpha_to_one=False), 'set_alpha_to_one'),
    'another variance': (PLAIN, scheduler(variance_type='fixed_large'), 'fixed_large'),
    'another prediction': (PLAIN, scheduler(prediction_type='v_prediction'), 'v_prediction'),
    'more steps than levels': (PLAIN, {'num_inference_steps': 200}, '200 inference steps'),
    'grey images': (PLAIN, {'shape_meta': SEEN}, "'image'"),
    'another encoder': ('image_resized', encoder(rgb_model={'name': 'resnet50'}), 'resnet50'),
    'a crop per camera': ('image_resized', encoder(crop_shape={'image': [8, 8]}), 'crop_shape'),
    'actions that begin late': (VECTOR, {'oa_step_convention': False}, 'oa_step_convention False'),
    'a local condition': (VECTOR, {'obs_as_global_cond': False, 'obs_as_local_cond': True},
                          'obs_as_local_cond True'),
    'a vector painted in': (VECTOR, {'obs_as_global_cond': False}, 'obs_as_global_cond False'),
    'other weights': (PLAIN, {'n_emb': 32}, 'belong together')}


@pytest.mark.parametrize('what', ODD)
def test_what_is_not_supported_is_refused_in_one_line(what, tmp_path, capsys):
    name, changed, said = ODD[what]
    path = save(tmp_path / 'latest.ckpt', name, changed)
    assert main(['import', str(path), '--out', str(tmp_path / 'made'), '--rate', '1']) == 1
    message = capsys.readouterr().err
    assert said in message and message.count('\n') == 1
    assert [p.name for p in tmp_path.iterdir()] == ['latest.ckpt']


def test_a_vector_policy_that_leaves_its_convention_out_has_its_own_class_s(tmp_path):
    policy = dict(CASES[VECTOR]['policy'])
    del policy['oa_step_convention']
    with pytest.raises(BundleError, match='oa_step_convention False'):
        kind_of(policy, tmp_path)


def test_cameras_of_several_sizes_that_are_resized_are_refused(tmp_path, capsys):
    case = CASES['image_shared']['policy']
    shapes = copy.deepcopy(case['shape_meta'])
    shapes['obs']['front']['shape'] = [3, 50, 52]
    path = save(tmp_path / 'latest.ckpt', 'image_shared', {'shape_meta': shapes, 'obs_encoder': {
        **case['obs_encoder'], 'resize_shape': [40, 40]}})
    assert main(['import', str(path), '--out', str(tmp_path / 'made'), '--rate', '1']) == 1
    assert 'several sizes' in capsys.readouterr().err


def test_a_damaged_file_is_refused(tmp_path, capsys):
    damaged = tmp_path / 'damaged.ckpt'
    damaged.write_bytes(save(tmp_path / 'latest.ckpt', PLAIN).read_bytes()[:5000])
    assert main(['import', str(damaged), '--out', str(tmp_path / 'made'), '--rate', '1']) == 1
    assert 'copy it' in capsys.readouterr().err
