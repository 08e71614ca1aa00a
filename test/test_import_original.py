"""Checkpoints of the original code: the weights of the golden file under its names, pickled."""

import os
import sys
import types

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='importing needs torch')
pytest.importorskip('onnx', reason='importing needs onnx')

from golden import drawn, rebuild  # noqa: E402
from test_import import plan  # noqa: E402

from diffusion_policy_rt.cli.main import main  # noqa: E402
from diffusion_policy_rt.engines.torch_engine import TorchNetworks  # noqa: E402
from diffusion_policy_rt.train.importing.assemble import (  # noqa: E402
    Robot, make_policy, make_spec)
from diffusion_policy_rt.train.importing.original import read_original  # noqa: E402

CASE = rebuild.cases()['ddim_10']
TARGET = 'diffusion_policy.policy.diffusion_unet_hybrid_image_policy.'


class DictConfig:
    """Pickles as omegaconf's class does."""

    def __init__(self, content):
        self._content = content


def original_name(name):
    """Return the original code's name of a weight of LeRobot's."""
    for theirs, original in (('rgb_encoder.backbone.', 'nets.0.nets.'),
                             ('rgb_encoder.pool.nets.', 'nets.1.nets.'),
                             ('rgb_encoder.out.', 'nets.3.')):
        if name.startswith('diffusion.' + theirs):
            rest = name.removeprefix('diffusion.' + theirs)
            return f'obs_encoder.obs_nets.observation.image.{original}{rest}'
    name = name.replace('diffusion.unet.', 'model.')
    name = name.replace('.conv1.', '.blocks.0.').replace('.conv2.', '.blocks.1.')
    parts = name.split('.')
    if parts[1] in ('down_modules', 'up_modules') and parts[3] == '2':
        parts.insert(4, 'conv')
    return '.'.join(parts)


def weights():
    """Return the state dictionary."""
    made = {original_name(name): torch.from_numpy(drawn.weight(name, shape))
            for name, shape in CASE['shapes'].items() if not name.endswith('pos_grid')}
    for key, stats in drawn.statistics(rebuild.features(CASE)).items():
        low, high = ((stats['mean'] - stats['std'], stats['mean'] + stats['std'])
                     if key == 'observation.image' else (stats['min'], stats['max']))
        scale = 2 / (high.astype(float) - low)
        head = f'normalizer.params_dict.{key}.'
        made[head + 'scale'] = torch.from_numpy(scale)
        made[head + 'offset'] = torch.from_numpy(-1 - low * scale)
    return made


def save(path, kind='DiffusionUnetHybridImagePolicy', **more):
    """Write a checkpoint."""
    policy = {
        '_target_': TARGET + kind, 'horizon': '${horizon}', 'n_action_steps': 8, 'n_obs_steps': 2,
        'num_inference_steps': 10, 'crop_shape': [56, 56], 'diffusion_step_embed_dim': 16,
        'down_dims': [16, 32],
        'shape_meta': {'action': {'shape': [3]}, 'obs': {
            'observation.state': {'shape': [2], 'type': 'low_dim'},
            'observation.image': {'shape': [3, 64, 64], 'type': 'rgb'}}},
        'noise_scheduler': {'_target_': 'diffusers.DDIMScheduler', 'num_train_timesteps': 100,
                            'beta_schedule': 'squaredcos_cap_v2'}}
    module = types.ModuleType('omegaconf.dictconfig')
    module.DictConfig, DictConfig.__module__ = DictConfig, 'omegaconf.dictconfig'
    sys.modules[module.__name__] = module
    try:
        torch.save({'cfg': DictConfig({'horizon': 16, 'policy': DictConfig(policy)}),
                    'state_dicts': {'model': weights()}, **more}, path)
    finally:
        del sys.modules[module.__name__]
    return path


class Harm:
    """Runs a command when a careless reader loads it."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_gives_the_chunk_of_the_same_weights(tmp_path):
    # as the original code keeps its counters, in bytes
    source = read_original(save(tmp_path / 'latest.ckpt', pickles={'epoch': b'\x80\x04K\x05.'}))
    spec = make_spec(source, Robot(10.0), 'imported')
    model = {'encoder': source.encoder, 'denoiser': source.denoiser}
    found = plan(spec, TorchNetworks(make_policy(source, spec, model)), CASE, 10)
    assert np.allclose(found[1:9], CASE['chunk'], atol=1e-5)


def test_a_pickle_that_wants_to_run_code_is_refused_and_runs_nothing(tmp_path, capsys):
    touched = tmp_path / 'touched'
    path = save(tmp_path / 'latest.ckpt', pickles=Harm(f'touch {touched}'))
    assert main(['import', str(path), '--out', str(tmp_path / 'made'), '--rate', '10']) == 1
    message = capsys.readouterr().err
    assert 'system' in message and message.count('\n') == 1
    assert not touched.exists() and not (tmp_path / 'made').exists()


def test_another_policy_and_a_damaged_file_are_refused_by_name(tmp_path, capsys):
    path = save(tmp_path / 'latest.ckpt', kind='DiffusionTransformerHybridImagePolicy')
    damaged = tmp_path / 'damaged.ckpt'
    damaged.write_bytes(path.read_bytes()[:5000])
    for source, said in ((path, 'DiffusionTransformerHybridImagePolicy'), (damaged, 'copy it')):
        assert main(['import', str(source), '--out', str(tmp_path / 'made'), '--rate', '1']) == 1
        assert said in capsys.readouterr().err
