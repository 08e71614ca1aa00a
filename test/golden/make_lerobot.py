"""Write lerobot.json: what LeRobot's own DiffusionPolicy gives for many configurations.

    pip install lerobot==0.4.4
    python test/golden/make_lerobot.py [KEPT]

Checkpoints are written by LeRobot's `save_pretrained`, into the folder KEPT where one is given.
"""

import json
import sys
import tempfile
import types
from pathlib import Path

import drawn
import torch

HERE = Path(__file__).parent
IMAGE, STATE, ENV = 'VISUAL', 'STATE', 'ENV'
SMALL = {'down_dims': [16, 32], 'diffusion_step_embed_dim': 16,
         'spatial_softmax_num_keypoints': 4}
DDIM = {'noise_scheduler_type': 'DDIM', 'num_inference_steps': 10}
TWO = {'observation.images.top': (IMAGE, (3, 64, 64)),
       'observation.images.wrist': (IMAGE, (3, 64, 64)), 'observation.state': (STATE, (7,))}
MODES = {'VISUAL': 'MEAN_STD', 'STATE': 'MIN_MAX', 'ACTION': 'MIN_MAX', 'ENV': 'MIN_MAX'}
ONE = {'observation.image': (IMAGE, (3, 64, 64)), 'observation.state': (STATE, (2,))}
CASES = {
    'ddpm_100': (ONE, {'crop_shape': [56, 56]}, {}),
    'ddim_10': (ONE, {'crop_shape': [56, 56], **DDIM}, {}),
    'shared': (TWO, DDIM, {}),
    'separate': (TWO, {**DDIM, 'use_separate_rgb_encoder_per_camera': True}, {}),
    'separate_ddpm': (TWO, {'use_separate_rgb_encoder_per_camera': True}, {}),
    'no_scale': (ONE, {**DDIM, 'use_film_scale_modulation': False}, {}),
    'environment': ({**ONE, 'observation.environment_state': (ENV, (5,))}, DDIM, {}),
    'no_camera': ({'observation.state': (STATE, (2,)),
                   'observation.environment_state': (ENV, (16,))}, DDIM, {}),
    'batch_norm': (ONE, {**DDIM, 'use_group_norm': False}, {}),
    'resnet34': (ONE, {**DDIM, 'vision_backbone': 'resnet34'}, {}),
    'resized': (ONE, {**DDIM, 'resize_shape': [40, 52], 'crop_ratio': 0.9}, {}),
    'odd_crop': ({**ONE, 'observation.image': (IMAGE, (3, 61, 67))},
                 {**DDIM, 'crop_shape': [46, 50]}, {}),
    'linear': (ONE, {**DDIM, 'beta_schedule': 'linear', 'num_inference_steps': 5}, {}),
    'scaled_linear': (ONE, {'beta_schedule': 'scaled_linear', 'num_train_timesteps': 50,
                            'num_inference_steps': 20}, {}),
    'one_observation': (ONE, {**DDIM, 'n_obs_steps': 1, 'horizon': 8, 'n_groups': 4,
                              'kernel_size': 3}, {}),
    'deviations': (ONE, {**DDIM, 'clip_sample_range': 3.0},
                   {'STATE': 'MEAN_STD', 'ACTION': 'MEAN_STD'}),
    'plain_images': (ONE, DDIM, {'VISUAL': 'IDENTITY', 'STATE': 'IDENTITY'}),
    'sample': (ONE, {**DDIM, 'prediction_type': 'sample'}, {}),
    'sample_ddpm': (ONE, {'prediction_type': 'sample', 'num_inference_steps': 50}, {}),
}


def declare_operators():
    """Let torchvision be imported beside a torch without its operators."""
    library = torch.library.Library('torchvision', 'DEF')
    try:
        library.define('nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
        library.define('qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
    except RuntimeError:
        pass  # torchvision's own are there
    return library


def prepare_imports():
    """Let one policy of LeRobot's be imported alone."""
    library = declare_operators()
    import lerobot
    package = types.ModuleType('lerobot.policies')
    package.__path__ = [str(Path(lerobot.__file__).parent / 'policies')]
    sys.modules['lerobot.policies'] = package
    return library


def make(inputs, options, modes):
    """Return the configuration and the policy, its weights drawn."""
    from lerobot.configs.types import FeatureType, NormalizationMode, PolicyFeature
    from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
    from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy

    features = {key: PolicyFeature(FeatureType[kind], shape)
                for key, (kind, shape) in inputs.items()}
    config = DiffusionConfig(
        input_features=features, device='cpu',
        output_features={'action': PolicyFeature(FeatureType.ACTION, (3,))},
        normalization_mapping={key: NormalizationMode[mode]
                               for key, mode in {**MODES, **modes}.items()},
        **{**SMALL, **options})
    policy = DiffusionPolicy(config).eval()
    shapes = {name: list(tensor.shape) for name, tensor in policy.state_dict().items()}
    policy.load_state_dict({
        name: tensor if name.endswith(('pos_grid', 'num_batches_tracked')) else
        torch.from_numpy(drawn.weight(name, tensor.shape))
        for name, tensor in policy.state_dict().items()})
    return config, policy, shapes


def patch_noise():
    """Make LeRobot's schedulers draw from the golden file's stream."""
    from diffusers.schedulers import scheduling_ddpm
    fresh = drawn.Fresh()
    scheduling_ddpm.randn_tensor = lambda shape, **_: torch.from_numpy(
        fresh.standard_normal(tuple(shape)))


@torch.no_grad()
def run(name, inputs, options, modes, folder):
    """Return what the golden file holds of one case."""
    from lerobot.policies.diffusion.processor_diffusion import make_diffusion_pre_post_processors

    config, policy, shapes = make(inputs, options, modes)
    features = {key: {'type': kind, 'shape': shape} for key, (kind, shape) in inputs.items()}
    stats = drawn.statistics({**features, 'action': {'type': 'ACTION', 'shape': (3,)}})
    before, after = make_diffusion_pre_post_processors(config, {
        key: {stat: torch.from_numpy(value) for stat, value in of.items()}
        for key, of in stats.items()})
    policy.save_pretrained(folder)
    before.save_pretrained(folder)
    after.save_pretrained(folder)
    observed = {key: torch.from_numpy(array)[None] for key, array in drawn.observation(
        features, config.n_obs_steps).items()}
    batch = before({key: array.permute(0, 1, 4, 2, 3) / 255 if array.dtype == torch.uint8
                    else array for key, array in observed.items()})
    if config.image_features:
        batch['observation.images'] = torch.stack(
            [batch[key] for key in config.image_features], dim=-4)
    patch_noise()
    noise = torch.from_numpy(drawn.noise((1, config.horizon, 3)))
    chunk = after(policy.diffusion.generate_actions(batch, noise))[0]
    files = {path.name: json.loads(path.read_text()) for path in folder.glob('*.json')}
    return {'files': files, 'shapes': shapes, 'chunk': chunk.tolist()}


def main():
    """Write the file."""
    kept = prepare_imports()
    torch.set_num_threads(1)
    folder = Path(sys.argv[1]) if sys.argv[1:] else Path(tempfile.mkdtemp())
    cases = {}
    for name, case in CASES.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        cases[name] = run(name, *case, folder / name)
        print(name, cases[name]['chunk'][0])
    (HERE / 'lerobot.json').write_text(json.dumps(
        {'command': 'python test/golden/make_lerobot.py', 'lerobot': '0.4.4', 'cases': cases},
        separators=(',', ':')) + '\n')
    del kept


if __name__ == '__main__':
    main()
