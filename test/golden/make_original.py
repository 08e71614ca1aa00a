"""Write original.json: what the original Diffusion Policy code gives for many configurations.

    git clone <real-stanford/diffusion_policy>    # at commit 5ba07ac
    pip install --no-deps diffusers==0.11.1 robomimic==0.2.0 huggingface_hub==0.25.2 hydra-core \
        einops dill six h5py psutil tensorboardX termcolor torchvision
    PYTHONPATH=diffusion_policy python test/golden/make_original.py [KEPT]

Checkpoints are written by the code's own workspace, into the folder KEPT where one is given.
"""

import copy
import json
import sys
import tempfile
from pathlib import Path

import drawn
import torch
from make_lerobot import declare_operators

HERE = Path(__file__).parent
POLICY = 'diffusion_policy.policy.'
HYBRID_TRANSFORMER = ('diffusion_transformer_hybrid_image_policy.'
                      'DiffusionTransformerHybridImagePolicy')
HYBRID_UNET = 'diffusion_unet_hybrid_image_policy.DiffusionUnetHybridImagePolicy'
IMAGE_UNET = 'diffusion_unet_image_policy.DiffusionUnetImagePolicy'
LOWDIM_UNET = 'diffusion_unet_lowdim_policy.DiffusionUnetLowdimPolicy'
LOWDIM_TRANSFORMER = 'diffusion_transformer_lowdim_policy.DiffusionTransformerLowdimPolicy'
COSINE = {'num_train_timesteps': 100, 'beta_start': 1e-4, 'beta_end': 0.02,
          'beta_schedule': 'squaredcos_cap_v2', 'clip_sample': True, 'prediction_type': 'epsilon'}
DDPM = {'_target_': 'diffusers.schedulers.scheduling_ddpm.DDPMScheduler', **COSINE,
        'variance_type': 'fixed_small'}
DDIM = {'_target_': 'diffusers.schedulers.scheduling_ddim.DDIMScheduler', **COSINE,
        'set_alpha_to_one': True, 'steps_offset': 0}
HUNDRED = {'noise_scheduler': DDPM, 'num_inference_steps': 100}
TEN = {'noise_scheduler': DDIM, 'num_inference_steps': 10}
IMAGE = {'shape': [3, 44, 52], 'type': 'rgb'}
ONE = {'agent_pos': {'shape': [2], 'type': 'low_dim'}, 'image': IMAGE}
TWO = {'wrist': IMAGE, 'joints': {'shape': [4]}, 'front': IMAGE, 'gripper': {'shape': [1]}}
NETS = {'horizon': 16, 'n_action_steps': 8, 'n_obs_steps': 2, 'diffusion_step_embed_dim': 16,
        'down_dims': [16, 32]}
TOKENS = {'horizon': 10, 'n_action_steps': 8, 'n_obs_steps': 2, 'n_layer': 2, 'n_head': 2,
          'n_emb': 16}
ROBOMIMIC = {'crop_shape': [36, 40], 'obs_encoder_group_norm': True, 'eval_fixed_crop': True}


def lowdim(scheduler, horizon, n_obs, causal, heads=2):
    """Return the policy's part of a low-dimensional configuration."""
    return {'_target_': POLICY + LOWDIM_TRANSFORMER, 'horizon': horizon, 'obs_dim': 5,
            'action_dim': 3, 'n_action_steps': 2, 'n_obs_steps': n_obs, 'obs_as_cond': True,
            **scheduler, 'model': {
                '_target_': 'diffusion_policy.model.diffusion.transformer_for_diffusion.'
                            'TransformerForDiffusion', 'input_dim': 3, 'output_dim': 3,
                'horizon': horizon, 'n_obs_steps': n_obs, 'cond_dim': 5, 'n_layer': 2,
                'n_head': heads, 'n_emb': 16, 'causal_attn': causal, 'obs_as_cond': True}}


def lowdim_unet(scheduler, n_obs, **net):
    """Return the same of one with a U-Net."""
    return {'_target_': POLICY + LOWDIM_UNET, 'horizon': 16, 'obs_dim': 5, 'action_dim': 3,
            'n_action_steps': 8, 'n_obs_steps': n_obs, 'obs_as_local_cond': False,
            'obs_as_global_cond': True, 'oa_step_convention': True, **scheduler, 'model': {
                '_target_': 'diffusion_policy.model.diffusion.conditional_unet1d.'
                            'ConditionalUnet1D', 'input_dim': 3, 'local_cond_dim': None,
                'global_cond_dim': 5 * n_obs, 'diffusion_step_embed_dim': 16,
                'down_dims': [16, 32], **net}}


def image(obs, scheduler, encoder, **more):
    """Return the policy's part of an image configuration."""
    shapes = {'obs': obs, 'action': {'shape': [3]}}
    return {'_target_': POLICY + IMAGE_UNET, 'shape_meta': shapes, **NETS, **scheduler, **more,
            'obs_encoder': {
                '_target_': 'diffusion_policy.model.vision.multi_image_obs_encoder.'
                            'MultiImageObsEncoder', 'shape_meta': shapes, 'rgb_model': {
                    '_target_': 'diffusion_policy.model.vision.model_getter.get_resnet',
                    'name': encoder.pop('name', 'resnet18'), 'weights': None}, **encoder}}


def hybrid(target, obs, scheduler, nets, **more):
    """Return the policy's part of a hybrid configuration."""
    return {'_target_': POLICY + target, 'shape_meta': {'obs': obs, 'action': {'shape': [3]}},
            **nets, **ROBOMIMIC, **scheduler, **more}


CASES = {
    'hybrid_transformer_ddpm': hybrid(HYBRID_TRANSFORMER, ONE, HUNDRED, TOKENS),
    'hybrid_transformer_ddim': hybrid(HYBRID_TRANSFORMER, TWO, TEN, TOKENS,
                                      obs_encoder_group_norm=False),
    'hybrid_transformer_uncut': hybrid(HYBRID_TRANSFORMER, ONE, TEN, TOKENS, crop_shape=None,
                                       causal_attn=False, horizon=7, n_action_steps=5),
    'hybrid_unet_ddpm': hybrid(HYBRID_UNET, ONE, HUNDRED, NETS),
    'hybrid_unet_ddim': hybrid(HYBRID_UNET, TWO, TEN, NETS, cond_predict_scale=False),
    'image_separate': image(TWO, TEN, {'crop_shape': [36, 40], 'use_group_norm': True,
                                       'imagenet_norm': True}),
    'image_shared': image(TWO, TEN, {'share_rgb_model': True, 'imagenet_norm': True}),
    'image_ddpm': image(ONE, HUNDRED, {'crop_shape': [36, 40], 'use_group_norm': True}),
    'image_resized': image(ONE, TEN, {'resize_shape': [40, 46], 'crop_shape': [36, 41],
                                      'use_group_norm': True, 'imagenet_norm': True}),
    # without random_crop the original code does not crop at all
    'image_uncut': image(ONE, TEN, {'crop_shape': [36, 40], 'random_crop': False}),
    'image_resnet34': image(ONE, TEN, {'name': 'resnet34', 'use_group_norm': True}),
    'lowdim_transformer_ddpm': lowdim(HUNDRED, 8, 2, True),
    'lowdim_transformer_ddim': lowdim(TEN, 5, 3, False),
    'lowdim_transformer_sample': lowdim({'noise_scheduler': {**DDPM, 'prediction_type': 'sample'},
                                         'num_inference_steps': 100}, 5, 3, True),
    'lowdim_unet_ddpm': lowdim_unet(HUNDRED, 2, kernel_size=5, cond_predict_scale=True),
    'lowdim_unet_ddim': lowdim_unet(TEN, 3, kernel_size=5, n_groups=4, cond_predict_scale=True),
    'lowdim_unet_untold': lowdim_unet(TEN, 2),
}


def make(config):
    """Return the policy that the configuration describes, its weights drawn, and their shapes."""
    import hydra
    from diffusion_policy.model.common.normalizer import LinearNormalizer
    from omegaconf import OmegaConf

    policy = hydra.utils.instantiate(OmegaConf.create(config))
    normalizer = LinearNormalizer()
    normalizer.load_state_dict({name: torch.from_numpy(values) for name, values in
                                drawn.normalizer(drawn.original_features(config)).items()})
    policy.set_normalizer(normalizer)
    policy.eval()
    shapes = {name: list(tensor.shape) for name, tensor in policy.state_dict().items()
              if drawn.is_drawn(name)}
    policy.load_state_dict({
        **policy.state_dict(), **{name: torch.from_numpy(drawn.weight(name, shape))
                                  for name, shape in shapes.items()}})
    return policy, shapes


class Noise:
    """Stands for `torch.randn`: the start of the sampling, then its fresh noise."""

    def __init__(self):
        self._fresh, self._started = drawn.Fresh(), False

    def __call__(self, *given, size=None, **_):
        shape = tuple(size or given[0])
        if self._started:
            return torch.from_numpy(self._fresh.standard_normal(shape))
        self._started = True
        return torch.from_numpy(drawn.noise(shape))


@torch.no_grad()
def chunk(policy, config):
    """Return all actions that the policy gives for the drawn observation, [H, A]."""
    features = drawn.original_features(config)
    del features['action']
    seen = {key: torch.from_numpy(array)[None] for key, array in drawn.observation(
        features, config['n_obs_steps']).items()}
    batch = {key: array.permute(0, 1, 4, 2, 3) / 255 if array.dtype == torch.uint8 else array
             for key, array in seen.items()}
    own, torch.randn = torch.randn, Noise()
    try:
        made = policy.predict_action(batch)
    finally:
        torch.randn = own
    first = config['n_obs_steps'] - 1
    assert torch.equal(made['action'],
                       made['action_pred'][:, first:first + config['n_action_steps']])
    return made['action_pred'][0]


def keep(policy, config, path):
    """Write the checkpoint as the original code's workspaces do."""
    from diffusion_policy.workspace.base_workspace import BaseWorkspace
    from omegaconf import OmegaConf

    workspace = BaseWorkspace(OmegaConf.create({'policy': config, 'training': {'seed': 42}}),
                              output_dir=str(path.parent))
    workspace.include_keys = ('global_step',)
    workspace.global_step = 7
    workspace.model = copy.deepcopy(policy)
    with torch.no_grad():  # what is run is the average
        for tensor in workspace.model.parameters():
            tensor.zero_()
    workspace.ema_model = policy
    workspace.optimizer = torch.optim.AdamW(policy.parameters())
    workspace.save_checkpoint(path, use_thread=False)


def prepare_imports():
    """Bring today's torchvision to what the original code's, 0.13, does."""
    kept = declare_operators()
    import torchvision
    resize = torchvision.transforms.Resize.__init__

    def without_antialias(self, size):  # then tensors were resized without
        resize(self, size, antialias=False)

    torchvision.transforms.Resize.__init__ = without_antialias
    return kept


def main():
    """Write the file."""
    kept = prepare_imports()
    torch.set_num_threads(1)
    folder = Path(sys.argv[1]) if sys.argv[1:] else Path(tempfile.mkdtemp())
    cases = {}
    for name, config in CASES.items():
        policy, shapes = make(config)
        made = chunk(policy, config)
        (folder / name).mkdir(parents=True, exist_ok=True)
        keep(policy, config, folder / name / 'latest.ckpt')
        cases[name] = {'policy': config, 'shapes': shapes, 'chunk': made.tolist()}
        print(name, made[0].tolist())
    (HERE / 'original.json').write_text(json.dumps(
        {'command': 'python test/golden/make_original.py', 'commit': '5ba07ac',
         'diffusers': '0.11.1', 'robomimic': '0.2.0', 'cases': cases},
        separators=(',', ':')) + '\n')
    del kept


if __name__ == '__main__':
    main()
