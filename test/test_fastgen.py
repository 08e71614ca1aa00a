"""NVIDIA's FastGen on our policies: found or refused by name, and its methods on the toys."""

import copy
import math
import sys

import numpy as np
import pytest
from fakes import tiny_spec

torch = pytest.importorskip('torch', reason='distilling needs torch')

from test_distill_losses import BOTH, COND, descend, draw, network, optimiser, precond  # noqa: E402
from test_distill_losses import teacher as trained  # noqa: E402, F401

from diffusion_policy_rt.errors import DprtError  # noqa: E402
from diffusion_policy_rt.train.distill import fastgen_net  # noqa: E402
from diffusion_policy_rt.train.distill.denoiser import NetworkDenoiser  # noqa: E402
from diffusion_policy_rt.train.distill.fastgen_loss import MODELS, SCORED  # noqa: E402
from diffusion_policy_rt.train.distill.methods import METHODS  # noqa: E402
from diffusion_policy_rt.train.distill.networks import Networks  # noqa: E402
from diffusion_policy_rt.train.ema import EMA  # noqa: E402


def there():
    """Tell whether FastGen is importable, by the code under test."""
    try:
        return bool(fastgen_net.fastgen('methods'))
    except DprtError as error:
        return not str(error)


needs_fastgen = pytest.mark.skipif(not there(), reason="NVIDIA's FastGen is not installed: it is "
                                   'on no package index, and has an environment of its own')


# -- found, or refused ----------------------------------------------------------------------------


@pytest.fixture
def alone(monkeypatch, tmp_path):
    """Leave nothing importable but what a test puts into the returned folder."""
    for name in [name for name in sys.modules if name.partition('.')[0] == 'fastgen']:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, 'path', [str(tmp_path)])
    monkeypatch.setattr(sys, 'meta_path', [finder for finder in sys.meta_path
                                           if 'Path' in getattr(finder, '__name__', '')])
    fastgen_net.fastgen.cache_clear()
    yield tmp_path
    fastgen_net.fastgen.cache_clear()


def test_without_fastgen_the_message_says_how_to_get_it(alone):
    with pytest.raises(DprtError, match='needs NVIDIA.*git clone') as caught:
        fastgen_net.fastgen('methods')
    assert '\n' not in str(caught.value)


def test_the_unrelated_package_of_that_name_is_told_and_not_even_imported(alone):
    (alone / 'fastgen').mkdir()
    (alone / 'fastgen/__init__.py').write_text('raise SystemExit("imported")\n')
    with pytest.raises(DprtError, match='another one than NVIDIA'):
        fastgen_net.fastgen('methods')


def test_a_package_that_fastgen_lacks_is_named(alone):
    for part in ('methods', 'networks'):
        (alone / 'fastgen' / part).mkdir(parents=True)
        (alone / 'fastgen' / part / '__init__.py').write_text('import there_is_no_such_thing\n')
    (alone / 'fastgen/__init__.py').write_text('')
    with pytest.raises(DprtError, match='lacks there_is_no_such_thing'):
        fastgen_net.fastgen('methods')


def test_the_middle_block_s_features_are_kept_while_asked_for():
    net, x = network(), torch.randn(3, 4, 2)
    with fastgen_net.Tapped(net, True) as tap:
        net(x, torch.ones(3), COND[:3])
    assert [f.shape[0] for f in tap.features] == [3]
    with fastgen_net.Tapped(net, False) as tap:
        net(x, torch.ones(3), COND[:3])
    assert tap.features == []
    size = fastgen_net.feature_size(NetworkDenoiser(net, precond()), x[:1], COND[:1])
    assert fastgen_net.Discriminator(size)([torch.randn(5, size)]).shape == (5, 1)


# -- its networks ---------------------------------------------------------------------------------


@needs_fastgen
@pytest.mark.parametrize('schedule', ['edm', 'rf'])
def test_a_denoiser_answers_in_fastgen_s_times_what_it_answers_in_ours(schedule):
    denoiser = NetworkDenoiser(network(), precond())
    net = fastgen_net.network_class()(denoiser, schedule, 10.0 if schedule == 'edm' else 0.99)
    x0, noise = torch.randn(2, 5, 4, 2)
    t = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9], dtype=torch.float64)
    x_t = net.noise_scheduler.forward_process(x0, noise, t)
    sigma = (t if schedule == 'edm' else t / (1 - t)).numpy()
    x = x0 + torch.from_numpy(sigma).float()[:, None, None] * noise
    expected = denoiser(x, sigma, COND[:5])
    torch.testing.assert_close(net(x_t, t, COND[:5], fwd_pred_type='x0'), expected,
                               rtol=1e-4, atol=1e-5)
    flow = net(x_t, t, COND[:5], fwd_pred_type='flow')
    torch.testing.assert_close(x_t - t.float()[:, None, None] * flow, expected, rtol=1e-4,
                               atol=1e-4)
    made, features = net(x_t, t, COND[:5], feature_indices={0})
    assert made.shape == x0.shape and len(features) == 1
    assert len(net(x_t, t, COND[:5], feature_indices={0}, return_features_early=True)) == 1


@needs_fastgen
def test_a_stop_is_told_as_the_time_r():
    net = network(stop_time=True, step_frequency=0.01)
    torch.nn.init.normal_(net.stop_encoder[-1].weight, std=0.5)
    pre = precond('flow', True)
    wrapped = fastgen_net.network_class()(NetworkDenoiser(net, pre), 'rf', 0.99)
    x, t, r = torch.randn(3, 4, 2), torch.full((3,), 0.8).double(), torch.full((3,), 0.3).double()
    velocity = wrapped(x, t, COND[:3], r=r, fwd_pred_type='flow')
    expected = net(x, torch.full((3,), 800.0), COND[:3], torch.full((3,), 300.0))
    torch.testing.assert_close(velocity, expected, rtol=1e-3, atol=1e-3)


# -- its methods ----------------------------------------------------------------------------------

SMALL = {
    'cm': {'sigmas': [5.0, 2.0, 1.0, 0.5], 'sigma_mean': -0.2, 'ratio': 0.8},
    'scm': {'sigmas': [5.0, 2.0, 1.0, 0.5], 'sigma_mean': -0.2},
    'meanflow': {'sigmas': [80.0]},
    'fdistill': {'sigmas': [5.0, 2.0, 1.0, 0.5], 'sigma_mean': -1.0, 'sigma_std': 1.2},
    'dmd2': {'sigmas': [5.0, 2.0, 1.0, 0.5], 'sigma_mean': -1.0, 'sigma_std': 1.2}}
UPDATES = {'cm': 250, 'meanflow': 300}
FEW = 100


def distill(name, start, updates):
    """Distill a network that was trained on the toys; return the averaged student and its spec."""
    torch.manual_seed(0)
    method = METHODS[f'fastgen-{name}']
    how = method.options(**SMALL[name])
    pre = precond(method.kind or 'edm', method.stop_time)
    student, critic, its = network(**method.denoiser), network(stop_time=True), network()
    its.load_state_dict(start)
    critic.load_state_dict(start, strict=False)
    if method.from_teacher:
        student.load_state_dict(start)
    average = EMA(student, 0.98)
    made = method.make(Networks(student, average.module, pre, its, precond(), critic,
                                example=(torch.zeros(1, 4, 2), COND[:1])), how)
    optimisers, rng = [optimiser(student, 2e-3)], np.random.default_rng(1)
    optimisers += [optimiser(made.critic, 4e-3)] if made.critic is not None else []
    before = copy.deepcopy(its.state_dict())
    for step in range(updates):
        for each, rate in zip(optimisers, (2e-3, 4e-3)):
            each.param_groups[0]['lr'] = rate * 0.5 * (1 + math.cos(math.pi * step / updates))
        for _ in range(2 if made.critic is not None else 0):
            descend(made.critic_loss(BOTH.sample(rng), COND, rng), optimisers[1])
        descend(made.student_loss(BOTH.sample(rng), COND, rng), optimisers[0])
        average.update(student, step)
    assert all(torch.equal(before[n], t) for n, t in its.state_dict().items())
    spec = tiny_spec(horizon=4, precond=pre, clip=None, schedules=method.schedules(how, (1, 4) if (
        name == 'meanflow') else (1, 2, 4)))
    return NetworkDenoiser(average.module, pre), spec


@needs_fastgen
@pytest.mark.parametrize('name', UPDATES)
def test_a_student_of_few_steps_has_the_mean_and_both_modes(name, trained):  # noqa: F811
    student, spec = distill(name, trained, UPDATES[name])
    for steps in spec.steps:
        x = draw(student, spec, steps, 0, 1000)
        assert abs(x.mean() - 0.2) < 0.08 and 0.5 < x.std() / 0.3 < 1.5, (steps, x.mean(), x.std())
        x = draw(student, spec, steps, 1, 1000)
        share, near = (x.mean((1, 2)) > 0).mean(), (np.abs(np.abs(x) - 0.6) < 0.3).mean()
        assert 0.3 < share < 0.7 and near > 0.7, (steps, share, near)


@needs_fastgen
@pytest.mark.parametrize('name', MODELS.keys() - UPDATES.keys())
def test_few_updates_bring_one_step_nearer_to_the_data(name, trained):  # noqa: F811
    start = network()
    start.load_state_dict(trained)
    student, spec = distill(name, trained, FEW)
    spreads = [draw(denoiser, spec, 1, 0, 1000).std(0).mean()
               for denoiser in (NetworkDenoiser(start, precond()), student)]
    assert spreads[1] > 1.2 * spreads[0]  # one step of the teacher gives little but the mean


@needs_fastgen
@pytest.mark.parametrize('name', SCORED)
def test_fake_score_and_discriminator_both_learn(name, trained):  # noqa: F811
    its, critic = network(), network(stop_time=True)
    its.load_state_dict(trained)
    method = METHODS[f'fastgen-{name}']
    made = method.make(Networks(its, its, precond(), copy.deepcopy(its), precond(), critic,
                                example=(torch.zeros(1, 4, 2), COND[:1])), method.options())
    rng = np.random.default_rng(0)
    made.critic_loss(BOTH.sample(rng), COND, rng).backward()
    fake, head = made.critic
    for module in (fake, head):
        assert any(p.grad is not None and p.grad.abs().max() > 0 for p in module.parameters())
