"""Two-time networks: they start as their teacher, and are exported and run as what they are."""

import dataclasses

import numpy as np
import pytest
from fakes import MODELS, precond, stirred, tiny_spec

torch = pytest.importorskip('torch', reason='the networks are torch modules')

from diffusion_policy_rt.engines.load import installed, load_engine  # noqa: E402
from diffusion_policy_rt.errors import SpecError  # noqa: E402
from diffusion_policy_rt.model.policy import Policy  # noqa: E402
from diffusion_policy_rt.runtime.precond import denoise, stop_noise  # noqa: E402
from diffusion_policy_rt.runtime.sampler import estimates, sample  # noqa: E402
from diffusion_policy_rt.runtime.schedule import default_schedules  # noqa: E402
from diffusion_policy_rt.spec import Schedule  # noqa: E402
from diffusion_policy_rt.train.distill.denoiser import NetworkDenoiser  # noqa: E402
from diffusion_policy_rt.train.export import export_bundle  # noqa: E402

torch.set_num_threads(1)
KINDS = ('edm', 'ddpm', 'flow')


def told(kind):
    return dataclasses.replace(precond(kind), stop_time=True)


def student_of(model, kind):
    """Return a teacher and the two-time student that was given its weights."""
    torch.manual_seed(0)
    size = {'size': (45, 57), 'crop': (41, 50)}  # enough pixels for latents that are not all zero
    teacher = Policy(tiny_spec(kind=kind, **size), MODELS[model])
    config = {**MODELS[model], 'denoiser': {**MODELS[model]['denoiser'], 'stop_time': True}}
    student = Policy(tiny_spec(precond=told(kind), steps=(1, 2, 4, 8), kind=kind, **size),
                     config)
    student.load_state_dict(teacher.state_dict(), strict=False)
    return teacher, student, config


def example(spec, count=8):
    rng = np.random.default_rng(0)
    return (torch.from_numpy(rng.standard_normal((count, spec.horizon, 2), np.float32)),
            np.geomspace(0.02, 10, count), np.geomspace(0.01, 9, count),
            torch.from_numpy(rng.standard_normal((count, spec.cond_dim), np.float32)))


@pytest.mark.parametrize('model', MODELS)
@pytest.mark.parametrize('kind', KINDS)
def test_a_two_time_student_starts_as_its_teacher_whatever_it_is_told(model, kind):
    teacher, student, _ = student_of(model, kind)
    x, sigma, stop, cond = example(teacher.spec)
    with torch.no_grad():
        expected = NetworkDenoiser(teacher.denoiser, precond(kind))(x, sigma, cond)
        made = NetworkDenoiser(student.denoiser, told(kind))
        for goal in (stop, None):
            torch.testing.assert_close(made(x, sigma, cond, goal), expected)


@pytest.mark.parametrize('model', MODELS)
def test_a_two_time_student_is_exported_and_runs_alike_on_every_engine(model, tmp_path):
    _, student, config = student_of(model, 'edm')
    if model in ('transformer', 'dit'):  # fresh ones hardly listen to any level
        stirred(student.denoiser)
    torch.nn.init.normal_(student.denoiser.stop_encoder[-1].weight, std=0.2)
    bundle = export_bundle(student, config, tmp_path / 'bundle', {})
    x, sigma, stop, cond = example(bundle.spec)
    batched = NetworkDenoiser(student.denoiser, bundle.spec.precond)(x, sigma, cond, stop)
    for name in installed():
        engine = load_engine(bundle, name)
        for row in range(len(x)):
            one = (x[row].double().numpy(), sigma[row], cond[row].numpy())
            made = engine.denoise(*one, stop[row])
            np.testing.assert_allclose(made, batched[row].detach().numpy(), atol=1e-4)
            assert np.abs(made - engine.denoise(*one, 0.0)).max() > 5e-4


def test_a_network_and_a_spec_that_disagree_about_the_stop_time_are_refused():
    with pytest.raises(SpecError, match='stop_time False.*True'):
        Policy(tiny_spec(precond=told('edm')), MODELS['keypoint_mlp'])


@pytest.mark.parametrize('kind', KINDS)
def test_a_network_is_told_the_level_it_goes_to_only_if_it_asks(kind):
    seen = []

    def network(x, c_noise, cond, *c_stop):
        seen.append(c_stop)
        return x

    for pre in (precond(kind), told(kind)):
        denoise(network, pre, np.ones((4, 2)), 2.0, np.zeros(3), 1.0)
        denoise(network, pre, np.ones((4, 2)), 2.0, np.zeros(3))
    assert seen[:2] == [(), ()]
    assert seen[2] == (float(stop_noise(told(kind), 1.0)),)
    assert np.isfinite(seen[3]).all()  # zero has a floor


@pytest.mark.parametrize('kind', ['ddim', 'renoise'])
def test_the_sampler_tells_each_call_the_next_level_and_the_last_zero(kind):
    asked = []

    def network(x, sigma, stop):
        asked.append((sigma, stop))
        return 0 * x

    sample(network, Schedule(kind, (4.0, 2.0, 1.0)), np.ones((4, 2)))
    assert asked == [(4.0, 2.0), (2.0, 1.0), (1.0, 0.0)]


def test_renoising_forgets_all_but_the_estimate():
    seen = []

    def network(x, sigma, stop):
        seen.append(x)
        return np.full_like(x, 0.25)

    rng = np.random.default_rng(0)
    list(estimates(network, Schedule('renoise', (4.0, 2.0)), np.ones((40000, 1)), 0.5, None, rng))
    assert abs(seen[1].mean() - 0.25) < 0.05 and abs(seen[1].std() - 2.0) < 0.05


def test_a_point_student_s_chunk_does_not_depend_on_the_noise():
    schedule = Schedule('point', (2.5,))
    made = [sample(lambda x, *_: x + 1, schedule, noise)
            for noise in np.random.default_rng(0).standard_normal((2, 4, 2))]
    np.testing.assert_array_equal(made[0], made[1])


@pytest.mark.parametrize('kind', KINDS)
def test_every_step_count_of_a_two_time_student_is_finite(kind):
    _, student, _ = student_of('keypoint_mlp', kind)
    cond = np.zeros(student.spec.cond_dim, np.float32)

    def network(*inputs):
        with torch.no_grad():
            return student.denoiser(*(torch.as_tensor(np.asarray(v, np.float32))[None]
                                      for v in inputs))[0].numpy()

    for schedule in default_schedules(precond(kind), tuple(range(1, 9))).values():
        x = sample(lambda x, s, stop: denoise(network, told(kind), x, s, cond, stop), schedule,
                   np.ones((8, 2)), 0.5, 3.0)
        assert np.isfinite(x).all()
