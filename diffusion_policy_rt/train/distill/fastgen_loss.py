"""FastGen's methods as losses of `dprt distill`: its models compute, our loop trains.

    cm         consistency distillation (Song et al. 2023) with ECT's pairs (Geng et al. 2024)
    scm        continuous-time consistency distillation (Lu & Song 2025)
    meanflow   MeanFlow (Geng et al. 2025) along the teacher's velocity
    fdistill   f-distill (Xu et al. 2025): DMD2 with a GAN, samples weighted by an f-divergence
    dmd2       DMD2 (Yin et al. 2024) with the GAN that modelopt's form here goes without
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diffusion_policy_rt.train.distill.dmd import falling, flow_time
from diffusion_policy_rt.train.distill.fastgen_net import (
    Discriminator, fastgen, feature_size, network_class)
from diffusion_policy_rt.train.distill.networks import Networks

LATE = 1_000_000
"""The iteration that FastGen is told: past every warm-up, so that a resumed run is the same."""


@dataclass(frozen=True)
class FastGenOptions:
    """What the methods of FastGen can be told."""

    sigmas: tuple[float, ...] = (10.0, 5.408, 2.757, 1.308, 0.5676, 0.22, 0.07346, 0.02)
    """Levels of the most steps, falling; fewer steps take every second, fourth, eighth of them."""
    sigma_mean: float = -0.4
    """Mean of the logarithm of the levels that are trained at, or compared at."""
    sigma_std: float = 1.4
    ratio: float = 0.9
    """cm: how near, as a share of the level, the second of a pair lies."""
    instant: float = 0.5
    """meanflow: share of the samples with r = t."""
    difference: float = 0.005
    """scm, meanflow: the step of the finite difference that stands for the derivative."""
    divergence: str = 'js'
    """fdistill: rkl, kl, js, sf, neyman, sh or jf."""
    gan_weight: float = 0.001
    """fdistill, dmd2: weight of the GAN in the student's loss."""
    critic_rate: float = 1.0
    """fdistill, dmd2: learning rate of fake score and discriminator over the student's."""
    student_every: int = 5
    """fdistill, dmd2: one of so many steps moves the student."""

    def __post_init__(self) -> None:
        object.__setattr__(self, 'sigmas', falling(self.sigmas))


def held(*modules: nn.Module) -> dict[str, Any]:
    """Return a configuration of FastGen's that makes these, one at each call, the last again."""
    left: Iterator[nn.Module] = iter(modules)
    return {'_target_': lambda: next(left, modules[-1])}


def configuration(how: FastGenOptions, most: float, flow: bool, sigma_data: float, chunk: Tensor,
                  parts: dict[str, Any]) -> SimpleNamespace:
    """Return what FastGen's models read of their configuration; `chunk` is [1, H, A]."""
    create = importlib.import_module('omegaconf').OmegaConf.create
    times = {'time_dist_type': 'logitnormal' if flow else 'lognormal',
             'train_p_mean': how.sigma_mean, 'train_p_std': how.sigma_std,
             'min_t': 0.001 if flow else 0.002, 'max_t': most, 'min_r': 0.0, 'quantize': False,
             'sigma_data': sigma_data, 'r_sample_ratio': 1 - how.instant,
             't_list': [*how.sigmas, 0.0]}
    loss = {'use_cd': True, 'huber_const': 1e-8, 'use_squared_l2': False,
            'weighting_ct_loss': 'default', 'tangent_warmup_steps': LATE / 2,
            'tangent_warmup_const': 0.1, 'prior_weighting_enabled': True,
            'g_norm_spatial_invariance': True, 'divide_x_0_spatial_dim': True,
            'use_jvp_finite_diff': True, 'jvp_finite_diff_eps': how.difference,
            'norm_method': 'poly_0.75', 'norm_const': 1e-3, 'loss_type': 'l2',
            'tangent_spatial_invariance': False}
    divergence = {'f_div': how.divergence, 'ratio_lower': 0.1, 'ratio_upper': 20.0,
                  'ratio_normalization': True, 'bin_num': 10, 'ratio_ema_rate': 0.0}
    none = dict.fromkeys((
        'precision_amp', 'precision_amp_infer', 'precision_amp_enc', 'precision_fsdp',
        'precision_amp_jvp', 'guidance_scale', 'guidance_mixture_ratio', 'skip_layers',
        'cond_dropout_prob', 'fake_score_pred_type'))
    return SimpleNamespace(
        **none, **parts, device=str(chunk.device), precision='float32',
        input_shape=list(chunk.shape[1:]), use_ema=False, load_student_weights=False,
        pretrained_model_path='', pretrained_student_net_path='',
        enable_preprocessors=False, fsdp_meta_init=False,
        add_teacher_to_fsdp_dict=False, sample_t_cfg=create(times), loss_config=create(loss),
        sample_r_cfg=create({'enabled': False}), f_distill=create(divergence),
        student_sample_steps=len(how.sigmas), student_sample_type='sde', student_update_freq=2,
        gan_loss_weight_gen=how.gan_weight, gan_use_same_t_noise=False, gan_r1_reg_weight=0.0)


MODELS = {'cm': 'CMModel', 'scm': 'SCMModel', 'meanflow': 'MeanFlowModel',
          'fdistill': 'FdistillModel', 'dmd2': 'DMD2Model'}
SCORED = ('fdistill', 'dmd2')
"""Methods that train a fake score and a discriminator beside the student."""


class FastGenLoss:
    """The loss of one of FastGen's methods, on our student, teacher and critic."""

    critic: nn.Module | None = None

    def __init__(self, name: str, networks: Networks, how: FastGenOptions) -> None:
        models, make = fastgen('methods'), network_class()
        student, _, teacher, critic = networks.denoisers()
        self.how, flow = how, name == 'meanflow'
        most = flow_time(how.sigmas[0]) if flow else how.sigmas[0]
        # finite differences reach a little beyond the levels that are trained at
        times = ('rf' if flow else 'edm', most * (1.1 if name == 'scm' else 1.0))
        net = make(student, *times)
        parts = {'net': held(net), 'teacher': held(
            make(teacher, *times), make(critic, *times, after=net))}
        if name in SCORED:
            head = Discriminator(feature_size(teacher, *networks.example))
            self.critic = nn.ModuleList([networks.critic, head])
            parts['discriminator'] = held(head)
        chunk = networks.example[0]
        self.model = getattr(models, MODELS[name])(configuration(
            how, most, flow, networks.precond.sigma_data, chunk, parts))
        self.model.ratio = how.ratio

    def student_loss(self, x0: Tensor, cond: Tensor, rng: np.random.Generator) -> Tensor:
        """Return the student's loss on data x0 [B, H, A]."""
        return self._step(x0, cond, rng, LATE)

    def critic_loss(self, x0: Tensor, cond: Tensor, rng: np.random.Generator) -> Tensor:
        """Return the losses of fake score and discriminator, on data and the student's chunks."""
        return self._step(x0, cond, rng, LATE + 1)

    def _step(self, x0: Tensor, cond: Tensor, rng: np.random.Generator, number: int) -> Tensor:
        # FastGen draws from torch's own generator
        with torch.random.fork_rng(devices=[x0.device] if x0.is_cuda else []):
            torch.manual_seed(int(rng.integers(2**63)))
            data = {'real': x0, 'condition': cond, 'neg_condition': cond}
            return self.model.single_train_step(data, number)[0]['total_loss'].float()
