"""Distillers against closed forms: a Gaussian and two of them, whose denoiser is known exactly."""

import math
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from fakes import tiny_spec

torch = pytest.importorskip('torch', reason='training needs torch')

from diffusion_policy_rt.model.mlp import MLPDenoiser  # noqa: E402
from diffusion_policy_rt.spec import Preconditioning, Schedule  # noqa: E402
from diffusion_policy_rt.train.distill.compare import (  # noqa: E402
    Comparison, energy_distance, spread_ratio)
from diffusion_policy_rt.train.distill.consistency import (  # noqa: E402
    Consistency, ConsistencyOptions)
from diffusion_policy_rt.train.distill.denoiser import (  # noqa: E402
    NetworkDenoiser, jump, like, rollout, wide)
from diffusion_policy_rt.train.distill.dmd import RectifiedFlow, flow_time  # noqa: E402
from diffusion_policy_rt.train.distill.methods import METHODS, every_nth  # noqa: E402
from diffusion_policy_rt.train.distill.networks import Networks  # noqa: E402
from diffusion_policy_rt.train.distill.onedp import OneDP, OneDPOptions  # noqa: E402
from diffusion_policy_rt.train.distributed import World  # noqa: E402
from diffusion_policy_rt.train.ema import EMA  # noqa: E402

torch.set_num_threads(1)
COND = (torch.arange(256) % 2).float()[:, None]


class Mixture:
    """Equal Gaussians of one deviation, with all 4 x 2 values at one of `centres`."""

    def __init__(self, centres, deviation):
        self.centres, self.deviation = torch.tensor(centres), deviation

    def sample(self, count, rng):
        picked = self.centres[torch.from_numpy(rng.integers(len(self.centres), size=count))]
        noise = torch.from_numpy(rng.standard_normal((count, 4, 2), np.float32))
        return wide(picked) + self.deviation * noise

    def __call__(self, x, sigma, cond, stop=None):
        """Return the posterior mean: each centre's own, weighted by how likely it is."""
        s2 = wide(like(x, sigma**2))
        total = s2 + self.deviation**2
        far = (x[..., None] - self.centres).square().sum((1, 2), keepdim=True)
        likely = (-far / (2 * total[..., None])).softmax(-1)  # [B, 1, 1, centres]
        return (self.deviation**2 * x + s2 * (likely * self.centres).sum(-1)) / total


GAUSSIAN, TWO = Mixture([0.2], 0.3), Mixture([-0.6, 0.6], 0.1)


class Both:
    """The Gaussian where the condition is 0, the two Gaussians where it is 1."""

    def sample(self, rng):
        return self.choose(GAUSSIAN.sample(256, rng), TWO.sample(256, rng), COND)

    def __call__(self, x, sigma, cond, stop=None):
        return self.choose(GAUSSIAN(x, sigma, cond), TWO(x, sigma, cond), cond)

    def choose(self, a, b, cond):
        return torch.where(wide(cond[:, 0]) > 0.5, b, a)


BOTH = Both()
SMALL = {
    'consistency': {'bins': 8, 'ode_steps': 4, 'denoising_weight': 0.1},
    'dmd2': {'sigma_mean': -1.0, 'sigma_std': 1.2, 'student_every': 3,
             'sigmas': [5.0, 2.0, 1.0, 0.5], 'emphasis': 2},
    'onedp-s': {'sigma_mean': -1.0, 'levels': [2.5, 1.2, 0.6, 0.3]},
    'onedp-d': {'sigma_mean': -1.0},
    'meanflow': {}}


def network(**more):
    return MLPDenoiser(2, 4, 1, width=48, layers=2, step_dim=16, **more)


def precond(kind='edm', stop_time=False):
    return Preconditioning(kind, 0.5, stop_time=stop_time)


def optimiser(module, rate):
    return torch.optim.Adam(module.parameters(), lr=rate, betas=(0.5, 0.99))


def descend(loss, *optimisers):
    for each in optimisers:
        each.zero_grad()
    loss.backward()
    for each in optimisers:
        each.step()


@pytest.fixture(scope='module')
def teacher():
    """Return the weights of a network trained on the toys, to start students and critics from."""
    torch.manual_seed(0)
    net, rng = network(), np.random.default_rng(0)
    how, denoiser = optimiser(net, 2e-3), NetworkDenoiser(net, precond())
    for _ in range(400):
        x0, sigma = BOTH.sample(rng), np.exp(rng.normal(-0.8, 1.4, 256))
        x = x0 + wide(like(x0, sigma)) * torch.randn_like(x0)
        weight = wide(like(x0, (sigma**2 + 0.25) / (sigma * 0.5)**2))
        descend((weight * (denoiser(x, sigma, COND) - x0).square()).mean(), how)
    return net.state_dict()


def distill(name, start, updates):
    """Distill the toys' exact denoiser; return the averaged student and its spec."""
    torch.manual_seed(0)
    method = METHODS[name]
    how = method.options(**SMALL[name])
    pre = precond(method.kind or 'edm', method.stop_time)
    student, critic = network(**method.denoiser), network(stop_time=True)
    critic.load_state_dict(start, strict=False)
    if method.from_teacher:
        student.load_state_dict(start, strict=not method.stop_time)
    average = EMA(student, 0.98)
    made = method.make(Networks(student, average.module, pre, network(), precond(), critic), how)
    swap(made)
    rates = (2e-3, 4e-3)
    optimisers, rng = [optimiser(m, 0) for m in (student, critic)], np.random.default_rng(1)
    for step in range(updates):
        for each, rate in zip(optimisers, rates):
            each.param_groups[0]['lr'] = rate * 0.5 * (1 + math.cos(math.pi * step / updates))
        for _ in range(2 if made.critic is not None else 0):
            descend(made.critic_loss(BOTH.sample(rng), COND, rng), optimisers[1])
        descend(made.student_loss(BOTH.sample(rng), COND, rng), optimisers[0])
        average.update(student, step)
    steps = (1,) if name == 'onedp-d' else (1, 2, 4)
    spec = tiny_spec(horizon=4, precond=pre, schedules=method.schedules(how, steps), clip=None)
    return NetworkDenoiser(average.module, pre), spec


def swap(made):
    """Put the exact denoiser in the teacher network's place."""
    if hasattr(made, 'pipeline'):
        made.pipeline.teacher.denoiser = BOTH
    elif hasattr(made, 'teacher'):
        made.teacher = BOTH


def draw(student, spec, steps, cond, count=4000):
    noise = np.random.default_rng(5).standard_normal((count, 4, 2))
    return rollout(student, spec, steps, noise, torch.full((count, 1), float(cond)))


UPDATES = {'consistency': 400, 'dmd2': 300, 'onedp-s': 400, 'meanflow': 800}


@pytest.mark.parametrize('name', UPDATES)
def test_a_student_of_any_step_count_has_the_distribution_of_the_exact_denoiser(name, teacher):
    """The Gaussian's mean and deviation; both of the two Gaussians, in equal shares."""
    if name == 'dmd2':
        pytest.importorskip('modelopt.torch.fastgen')
    student, spec = distill(name, teacher, UPDATES[name])
    for steps in spec.steps:
        x = draw(student, spec, steps, 0)
        assert abs(x.mean() - 0.2) < 0.04 and abs(x.std() / 0.3 - 1) < 0.25, (steps, x.std())
        x = draw(student, spec, steps, 1)
        share, near = (x.mean((1, 2)) > 0).mean(), (np.abs(np.abs(x) - 0.6) < 0.3).mean()
        assert 0.35 < share < 0.65 and near > 0.85, (steps, share, near)


def test_the_deterministic_student_finds_the_mean_and_one_mode_whatever_the_noise(teacher):
    student, spec = distill('onedp-d', teacher, 150)
    one, two = draw(student, spec, 1, 0, 100), draw(student, spec, 1, 1, 100)
    assert np.ptp(one, axis=0).max() == np.ptp(two, axis=0).max() == 0
    assert np.abs(one - 0.2).max() < 0.05 and np.abs(np.abs(two) - 0.6).max() < 0.1


# -- the trajectory loss ---------------------------------------------------------------------


class Linear:
    """The denoiser x0 = gain x: one weight, so that gradients are known."""

    def __init__(self, gain, trained=False):
        self.gain = torch.tensor(gain, requires_grad=trained)

    def __call__(self, x, sigma, cond, stop=None):
        return self.gain * x


def consistency(student, average, teacher, **how):
    return Consistency(student, average, teacher, 0.5, ConsistencyOptions(**how))


@pytest.mark.parametrize('how', [{'to_end': 1.0}, {'to_end': 0.0}, {'ode_steps': 22}])
def test_the_gradient_of_the_trajectory_loss_reaches_the_student(how):
    """With the published mistake (the carrying to zero under no_grad) it did not."""
    student, average = Linear(0.5, trained=True), Linear(0.3, trained=True)
    loss = consistency(student, average, GAUSSIAN, **how)
    loss.trajectory(GAUSSIAN.sample(64, np.random.default_rng(0)), COND[:64],
                    np.random.default_rng(1)).backward()
    assert abs(student.gain.grad) > 1e-3


def test_the_gradient_reaches_the_student_through_jumps_that_do_not_end_at_zero(monkeypatch):
    student = Linear(0.5, trained=True)
    loss = consistency(student, Linear(0.3), GAUSSIAN)
    numbers = [np.full(64, number) for number in (2, 3, 6)]
    monkeypatch.setattr(loss, 'draw_levels', lambda count, rng: numbers)
    loss.trajectory(GAUSSIAN.sample(64, np.random.default_rng(0)), COND[:64],
                    np.random.default_rng(1)).backward()
    assert abs(student.gain.grad) > 1e-3


class Path:
    """The exact jump of a Gaussian's path, as a two-time denoiser."""

    def __call__(self, x, sigma, cond, stop=None):
        deviation, mean = GAUSSIAN.deviation, GAUSSIAN.centres[0]
        scale = wide(like(x, np.sqrt((stop**2 + deviation**2) / (sigma**2 + deviation**2))))
        ratio = wide(like(x, stop / sigma))
        return (mean + scale * (x - mean) - ratio * x) / (1 - ratio)


def test_the_trajectory_loss_vanishes_for_the_exact_path_and_for_no_other():
    x0, values = GAUSSIAN.sample(4000, np.random.default_rng(0)), []
    for student in (Path(), GAUSSIAN, Linear(0.5)):
        loss = consistency(student, Path(), GAUSSIAN, bins=200, ode_steps=3)
        values.append(loss.trajectory(x0, COND[:1].expand(4000, 1),
                                      np.random.default_rng(1)).item())
    assert 100 * values[0] < 1e-3 < min(values[1:])


@pytest.mark.parametrize('solver, worst', [('euler', 0.05), ('heun', 2e-3)])
def test_the_teacher_is_followed_along_the_exact_path(solver, worst):
    loss = consistency(None, None, GAUSSIAN, bins=60, solver=solver)
    x, cond = 3 * torch.randn(64, 4, 2), COND[:64]
    start, goal = np.arange(64) % 20, 20 + np.arange(64) % 30
    made = loss.follow(x, start, goal, cond)
    exact = jump(Path(), x, loss.levels[start], loss.levels[goal], cond)
    assert (made - exact).abs().max() < worst


def test_a_jump_of_a_two_time_network_is_one_ddim_step_of_the_sampler():
    x = torch.randn(256, 4, 2)
    net = NetworkDenoiser(network(stop_time=True), precond(stop_time=True))
    torch.nn.init.normal_(net.network.stop_encoder[-1].weight)
    seen = []

    def denoiser(x, sigma, cond, stop):
        seen.append(x)
        return net(x, sigma, cond, stop)

    spec = tiny_spec(horizon=4, precond=net.precond, clip=None,
                     schedules={2: Schedule('ddim', (4.0, 1.5))})
    rollout(denoiser, spec, 2, x.double().numpy() / np.hypot(4.0, 0.5), COND)
    jumped = jump(net, x, np.full(256, 4.0), np.full(256, 1.5), COND)
    torch.testing.assert_close(seen[1], jumped, rtol=1e-4, atol=1e-4)


def test_a_mean_flow_s_jump_is_one_ddim_step_of_the_sampler():
    x, net = torch.randn(256, 4, 2), network(stop_time=True)
    denoiser = NetworkDenoiser(net, precond('flow', True))
    t, r = 0.8, 0.3
    s, s_next = t / (1 - t), r / (1 - r)
    velocity = net((1 - t) * x, torch.full((256,), 1000 * t), COND, torch.full((256,), 1000 * r))
    expected = ((1 - t) * x - (t - r) * velocity) / (1 - r)  # x_r = x_t - (t - r) u
    jumped = jump(denoiser, x, np.full(256, s), np.full(256, s_next), COND)
    torch.testing.assert_close(jumped, expected, rtol=1e-4, atol=1e-4)


def test_the_mean_flow_s_target_is_the_derivative_along_the_path():
    method = METHODS['meanflow']
    torch.manual_seed(0)
    net = network(**method.denoiser).double()
    torch.nn.init.normal_(net.stop_encoder[-1].weight, std=0.1)
    loss = method.make(Networks(net, net, None, net, None, net), method.options())
    x, v, cond = *torch.randn(2, 8, 4, 2).double(), COND[:8].double()
    t, r = torch.full((8,), 0.7).double(), torch.full((8,), 0.4).double()
    u, wanted = loss.target(x, v, t, r, cond)
    step = 1e-4
    nearby = [loss.velocity(x + d * v, t + d, r, cond) for d in (step, -step)]
    change = (nearby[0] - nearby[1]) / (2 * step)
    torch.testing.assert_close(wanted, v - 0.3 * change, rtol=1e-3, atol=1e-4)
    assert u.requires_grad and not wanted.requires_grad


# -- the score losses ------------------------------------------------------------------------


def test_the_generator_s_gradient_vanishes_where_its_samples_are_the_teacher_s():
    """A generator N(m, s) with its exact critic: the gradient points to the teacher's mean."""
    class Generator:
        def __init__(self, mean):
            self.mean = torch.tensor(mean, requires_grad=True)

        def __call__(self, x, sigma, cond, stop=None):
            return self.mean + 0.3 / math.hypot(2.5, 0.5) * x

    slopes = []
    for mean in (-0.1, 0.2, 0.5):
        own = Generator(mean)
        loss = OneDP(own, GAUSSIAN, Mixture([mean], 0.3), None, 0.5, OneDPOptions())
        loss.student_loss(torch.zeros(4000, 4, 2), COND[:1].expand(4000, 1),
                          np.random.default_rng(0)).backward()
        slopes.append(own.mean.grad.item())
    assert slopes[0] < -0.01 and abs(slopes[1]) < 1e-6 and slopes[2] > 0.01


def test_fastgen_sees_the_teacher_as_the_flow_of_equal_noise_ratio():
    flow_matching = pytest.importorskip('modelopt.torch.fastgen').flow_matching
    x0, noise = torch.randn(2, 64, 4, 2)
    sigma = np.linspace(0.05, 9, 64)
    t = torch.from_numpy(flow_time(sigma))
    x_t = flow_matching.add_noise(x0, noise, t)
    velocity = RectifiedFlow(TWO)(hidden_states=x_t, timestep=t, encoder_hidden_states=COND[:64])
    x = x0 + wide(like(x0, sigma)) * noise
    torch.testing.assert_close(flow_matching.pred_x0_from_flow(velocity, x_t, t),
                               TWO(x, sigma, None), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('steps, levels', [(1, (8,)), (2, (8, 4)), (4, (8, 6, 4, 2)),
                                           (8, (8, 7, 6, 5, 4, 3, 2, 1))])
def test_fewer_steps_visit_levels_that_more_steps_visit(steps, levels):
    assert every_nth((8, 7, 6, 5, 4, 3, 2, 1), steps) == levels


@pytest.mark.parametrize('steps', [0, 3, 16])
def test_step_counts_that_do_not_divide_the_levels_are_refused(steps):
    with pytest.raises(ValueError, match='do not divide'):
        every_nth((8, 7, 6, 5, 4, 3, 2, 1), steps)


# -- what students are measured by -------------------------------------------------------------


def test_the_energy_distance_of_shifted_gaussians_grows_from_zero():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 50, 64, 3))
    distances = [energy_distance(a, b + shift) for shift in (0, 0.5, 1, 2)]
    assert abs(distances[0]) < 0.01 and distances == sorted(distances) and distances[1] > 0.05


def test_the_energy_distance_tells_one_mode_from_two_of_equal_mean_and_variance():
    rng = np.random.default_rng(0)
    one = rng.standard_normal((50, 64, 1))
    two = np.sign(rng.standard_normal((50, 64, 1))) * (1 + 0.1 * rng.standard_normal((50, 64, 1)))
    assert energy_distance(one, two / two.std()) > 0.05


@pytest.mark.parametrize('gain', [0.0, 0.5, 2.0])
def test_the_spread_ratio_is_the_ratio_of_deviations(gain):
    x = np.random.default_rng(0).standard_normal((20, 8, 4)) * [1, 2, 3, 4]
    assert abs(spread_ratio(gain * x, x) - gain) < 1e-9


def test_the_teacher_is_no_distance_from_itself():
    spec = tiny_spec(horizon=4, n_obs=1, steps=(8, 16), clip=None,
                     schedules={n: Schedule('ddim', tuple(np.geomspace(10, 0.02, n)))
                                for n in (8, 16)})
    conditions = torch.zeros(40, spec.cond_dim)
    alone = World(0, 1, torch.device('cpu'))
    measures = Comparison(GAUSSIAN, spec, conditions, alone, 256).measure(GAUSSIAN, spec)
    assert set(measures) == {'energy_8', 'spread_8', 'energy_16', 'spread_16'}
    assert abs(measures['energy_16']) < 0.02 and abs(measures['spread_16'] - 1) < 0.15


def worlds(size):
    """Return what the processes of one run, here threads, know of each other."""
    held, barrier = {}, threading.Barrier(size)

    class Peer(World):
        def joined(self, part, counts):
            held[self.rank] = part
            barrier.wait(10)
            made = np.concatenate([held[rank] for rank in range(size)])
            barrier.wait(10)
            return made

    return [Peer(rank, size, torch.device('cpu')) for rank in range(size)]


class Counted:
    """Samples lie about their condition; `chunks` counts those of each call."""

    def __init__(self):
        self.chunks = []

    def __call__(self, x, sigma, cond, stop=None):
        self.chunks.append(len(x))
        mean = wide(cond[:, 0])
        return mean + GAUSSIAN(x - mean, sigma, cond)


def compared(world, most_chunks):
    """Return what a process measures, and the chunks of its calls."""
    spec, denoiser = tiny_spec(horizon=4, n_obs=1, steps=(1, 4), clip=None, schedules={
        n: Schedule('renoise', tuple(np.geomspace(10, 0.02, n))) for n in (1, 4)}), Counted()
    conditions = torch.arange(6.0)[:, None].expand(6, spec.cond_dim)
    return Comparison(denoiser, spec, conditions, world, most_chunks).measure(
        denoiser, spec), denoiser.chunks


@pytest.mark.parametrize('size, most_chunks, parts', [
    (1, 50, 2), (1, 1, 16), (2, 96, 2), (3, 30, 4), (5, 96, 8), (20, 96, 16)])
def test_processes_draw_parts_of_the_same_samples_and_each_as_often(size, most_chunks, parts):
    expected, _ = compared(World(0, 1, torch.device('cpu')), 96)
    with ThreadPoolExecutor(size) as pool:
        made = list(pool.map(compared, worlds(size), [most_chunks] * size))
    for measures, chunks in made:
        assert measures == pytest.approx(expected, rel=1e-6, abs=1e-9)
        assert chunks == [96 // parts] * (9 * math.ceil(parts / size))
