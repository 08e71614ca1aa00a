"""Small stand-ins: a spec, an engine that counts, samples that are functions of their stamp."""

import numpy as np

from diffusion_policy_rt.runtime.clock import ManualClock
from diffusion_policy_rt.runtime.frame import Frame
from diffusion_policy_rt.runtime.loop import PolicyLoop
from diffusion_policy_rt.runtime.ports import Layer
from diffusion_policy_rt.runtime.schedule import default_schedules, squared_cosine_levels
from diffusion_policy_rt.runtime.settings import LoopSettings
from diffusion_policy_rt.spec import (
    ActionSpec, CameraSpec, PolicySpec, Preconditioning, VectorSpec)

MS = 1_000_000
STEP = 100 * MS
START = 1_000_000 * STEP
STATES, ACTIONS = ('x', 'y', 'grip'), ('y', 'x')  # another order on purpose

KEYPOINT_MLP = {'encoder': {'kind': 'keypoint', 'keypoints': 4, 'channels': 8},
                'denoiser': {'kind': 'mlp', 'width': 32, 'layers': 2, 'step_dim': 16}}
RESNET_UNET = {'encoder': {'kind': 'resnet', 'keypoints': 4, 'latent_dim': 8, 'width': 16},
               'denoiser': {'kind': 'unet', 'down_dims': [16, 32], 'groups': 4, 'step_dim': 16}}
TRANSFORMER, DIT = ({'encoder': KEYPOINT_MLP['encoder'],
                     'denoiser': {'kind': kind, 'width': 16, 'layers': 2, 'heads': 2}}
                    for kind in ('transformer', 'dit'))
MODELS = {'keypoint_mlp': KEYPOINT_MLP, 'resnet_unet': RESNET_UNET,
          'transformer': TRANSFORMER, 'dit': DIT}


def stirred(net):
    """Give every weight of a torch module a value, so that no gate hides what flows."""
    import torch
    torch.manual_seed(0)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return net.eval()


def precond(kind):
    """Return a preconditioning of this kind."""
    if kind != 'ddpm':
        return Preconditioning(kind, {'edm': 0.5, 'flow': 1.0}[kind])
    return Preconditioning('ddpm', 1.0, tuple(squared_cosine_levels(20)))


def tiny_spec(n_obs=2, cameras=('front',), kind='edm', steps=(1, 2, 4), reference='absolute',
              size=(12, 16), crop=None, **changes):
    """Return a spec of two actions whose names stand in another order than the states'."""
    fields = {
        'name': 'tiny',
        'cameras': tuple(CameraSpec(name, *size, 8, crop) for name in cameras),
        'state': VectorSpec(STATES, ('m', 'm', 'm'), (-9, -9, 0), (9, 9, 1), (0, 1, 0.5),
                            (4, 5, 0.5)),
        'action': ActionSpec(ACTIONS, ('m', 'm'), (-9, -9), (9, 9), (0.5, -0.5), (2, 3),
                             reference),
        'n_obs': n_obs, 'horizon': 8, 'n_action_steps': 3, 'rate': 10.0,
        'precond': precond(kind), 'schedules': default_schedules(precond(kind), tuple(steps))}
    return PolicySpec(**fields | changes)


class FakeEngine:
    """Implements runtime.ports.Engine: counts its calls, and takes the time it is told to."""

    name = 'fake'

    def __init__(self, spec, clock=None, encode_ns=0, denoise_ns=0):
        self.spec, self.clock = spec, clock
        self.encode_ns, self.denoise_ns = encode_ns, denoise_ns
        self.dtypes = {'denoiser': 'float32'}
        self.executed = {'denoiser': [Layer('layer', 'MatMul', 'float32')]}
        self.encoded, self.denoised = [], []
        self.meanwhile = lambda: None  # what other threads do while the engine works
        self.output = None  # what denoise returns, or None for a function of its inputs

    def _spend(self, ns):
        if self.clock is not None:
            self.clock.advance(ns)
        self.meanwhile()

    def encode(self, camera, image):
        """Return the moments of the image; each camera has its own."""
        self._spend(self.encode_ns)
        assert image.dtype == np.float32
        assert image.shape == (3, *self.spec.camera(camera).input_size)
        self.encoded.append(camera)
        gain = 1 + [c.name for c in self.spec.cameras].index(camera)
        powers = np.arange(1, self.spec.camera(camera).latent_dim + 1)
        return (gain * np.array([(image ** k).mean() for k in powers])).astype(np.float32)

    def denoise(self, x, sigma, cond, stop=0.0):
        """Return a smooth function of everything that it is given."""
        self._spend(self.denoise_ns)
        self.denoised.append(sigma)
        if self.output is not None:
            return np.broadcast_to(np.asarray(self.output, float), x.shape).copy()
        weights = np.cos(np.arange(len(cond)))
        return np.tanh(x / (1 + sigma) + cond @ weights)


def image_at(camera, stamp_ns, shape=(12, 16)):
    """Return the image of this camera at this stamp, uint8 [H, W, 3]."""
    rng = np.random.default_rng((stamp_ns, sum(camera.encode())))
    return rng.integers(0, 256, (*shape, 3), dtype=np.uint8)


def frame_at(stamp_ns, camera='front', arrival_ns=None, shape=(12, 16)):
    """Return the frame of this camera at this stamp."""
    return Frame(camera, stamp_ns, stamp_ns if arrival_ns is None else arrival_ns,
                 lambda: image_at(camera, stamp_ns, shape))


def state_at(stamp_ns):
    """Return the measured state at this stamp, float64 [S]."""
    t = (stamp_ns - START) / 1e9
    return np.array([np.sin(t), 2 * np.cos(t), 0.5])


def feed(loop, stamp_ns, arrival_ns=None):
    """Give the loop one frame of each camera and one state."""
    for camera in loop.spec.cameras:
        loop.observe_frame(frame_at(stamp_ns, camera.name, arrival_ns))
    loop.observe_state(stamp_ns, stamp_ns if arrival_ns is None else arrival_ns,
                       state_at(stamp_ns))


def make_loop(spec=None, clock=None, limits=None, velocity=False, seed=0, rules=None,
              **settings):
    """Return a loop over a FakeEngine on a manual clock."""
    spec = spec or tiny_spec()
    clock = clock or ManualClock()
    return PolicyLoop(spec, FakeEngine(spec, clock), LoopSettings(**settings), clock, seed, limits,
                      velocity, rules)


def planned(**changes):
    """Return a loop that planned at START, and its plan."""
    loop = make_loop(**changes)
    feed(loop, START)
    return loop, loop.plan(START)
