"""The plan that a GPU captures is the one that the runtime makes step by step."""

import dataclasses

import numpy as np
import pytest
from fakes import MODELS

torch = pytest.importorskip('torch', reason='the plan is one of torch')

from diffusion_policy_rt.engines.torch_engine import TorchNetworks  # noqa: E402
from diffusion_policy_rt.engines.torch_plan import TorchPlan  # noqa: E402
from diffusion_policy_rt.errors import EngineError  # noqa: E402
from diffusion_policy_rt.runtime.observation import observed  # noqa: E402
from diffusion_policy_rt.runtime.sampler import sample  # noqa: E402


@pytest.mark.parametrize('steps', [1, 2, 4, 8])
@pytest.mark.parametrize('kind', ['edm', 'ddpm', 'flow'])
@pytest.mark.parametrize('model', MODELS)
def test_a_whole_plan_is_that_of_the_runtime(exported, model, kind, steps):
    _, policy = exported(model, kind)
    spec, rng = dataclasses.replace(policy.spec, clip=2.0), np.random.default_rng(0)
    policy.spec, own = spec, policy.spec
    images = {c.name: rng.uniform(-1, 1, (spec.n_obs, 3, *c.input_size)).astype(np.float32)
              for c in spec.cameras}
    states = rng.uniform(-1, 1, (spec.n_obs, len(spec.state)))
    noise = rng.standard_normal((spec.horizon, len(spec.action)))
    networks = TorchNetworks(policy)
    latents = {name: [networks.encode(name, image) for image in stack]
               for name, stack in images.items()}
    cond = observed(spec, latents, states)
    expected = sample(lambda x, s, stop: networks.denoise(x, s, cond, stop), spec.schedule(steps),
                      noise, spec.precond.sigma_data, spec.clip)
    normalised = torch.from_numpy(spec.state.normalise(states).astype(np.float32))
    with torch.no_grad():
        made = TorchPlan(policy, steps)(
            {name: torch.from_numpy(x) for name, x in images.items()}, normalised,
            torch.zeros(1, 0), torch.from_numpy(noise.astype(np.float32))[None])[0].numpy()
    policy.spec = own
    assert np.abs(made - expected).max() <= 1e-3 * np.abs(expected).max()


def test_a_schedule_that_draws_noise_is_no_single_graph(exported):
    _, policy = exported('keypoint_mlp', 'edm')
    schedules = {2: dataclasses.replace(policy.spec.schedule(2), kind='renoise')}
    own, policy.spec = policy.spec, dataclasses.replace(policy.spec, schedules=schedules)
    try:
        with pytest.raises(EngineError, match='renoise draws noise'):
            TorchPlan(policy, 2)
    finally:
        policy.spec = own
