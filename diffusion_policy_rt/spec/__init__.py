"""What a policy takes and gives: names, shapes, dtypes, units, bounds. Frozen; JSON in and out."""

from diffusion_policy_rt.spec.camera import CameraSpec
from diffusion_policy_rt.spec.parse import build
from diffusion_policy_rt.spec.policy import PolicySpec
from diffusion_policy_rt.spec.sampling import SAMPLERS, Preconditioning, Schedule
from diffusion_policy_rt.spec.vector import ActionSpec, VectorSpec

__all__ = ['SAMPLERS', 'ActionSpec', 'CameraSpec', 'PolicySpec', 'Preconditioning', 'Schedule',
           'VectorSpec', 'build']
