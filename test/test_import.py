"""`dprt import` against the outputs of LeRobot's own policy (golden/make_lerobot.py)."""

import numpy as np
import pytest

pytest.importorskip('torch', reason='importing needs torch')
pytest.importorskip('onnx', reason='importing needs onnx')

from golden import drawn, rebuild  # noqa: E402

from diffusion_policy_rt.engines.torch_engine import TorchNetworks  # noqa: E402
from diffusion_policy_rt.runtime.frame import to_input  # noqa: E402
from diffusion_policy_rt.runtime.observation import observed  # noqa: E402
from diffusion_policy_rt.runtime.sampler import sample  # noqa: E402
from diffusion_policy_rt.train.importing.assemble import Robot, make_spec  # noqa: E402
from diffusion_policy_rt.train.importing.lerobot import read_lerobot  # noqa: E402
from diffusion_policy_rt.train.importing.networks import make_policy  # noqa: E402

CASES = list(rebuild.cases())


def plan(spec, networks, case, steps):
    """Return the chunk of the case's observation, noise, and sampler's noise."""
    seen = drawn.observation({key: feature for key, feature in rebuild.features(case).items()
                              if feature['type'] != 'ACTION'}, spec.n_obs)
    frames = {key: value for key, value in seen.items() if value.dtype == np.uint8}
    latents = {c.name: [networks.encode(c.name, to_input(image, c)) for image in images]
               for c, images in zip(spec.cameras, frames.values())}
    states = np.concatenate([seen[key] for key in (
        'observation.state', 'observation.environment_state') if key in seen], axis=-1)
    cond = observed(spec, latents, states)
    noise = drawn.noise((spec.horizon, len(spec.action)))
    found = sample(lambda x, s, stop: networks.denoise(x, s, cond, stop), spec.schedule(steps),
                   noise, spec.precond.sigma_data, spec.clip, drawn.Fresh())
    return spec.decode_actions(found, states[-1])


def load(folder):
    """Return the source, the spec and the networks."""
    source = read_lerobot(folder)
    spec = make_spec(source, Robot(10.0), 'imported')
    model = {'encoder': source.encoder, 'denoiser': source.denoiser}
    return source, spec, TorchNetworks(make_policy(source, spec, model))


@pytest.mark.parametrize('name', CASES)
def test_gives_the_chunk_that_lerobot_gives(name, tmp_path):
    case = rebuild.cases()[name]
    source, spec, networks = load(rebuild.write(case, tmp_path))
    chunk = plan(spec, networks, case, source.sampling.steps)
    first = spec.n_obs - 1
    expected = np.array(case['chunk'])
    found = chunk[first:first + spec.n_action_steps]
    assert np.abs(found - expected).max() <= 1e-5 * max(1, np.abs(expected).max())
