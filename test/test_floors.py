"""Floors that need no training: nearest demonstration, and few-step samplers of any policy."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from fakes import precond, tiny_spec

from diffusion_policy_rt.errors import DataError, SpecError
from diffusion_policy_rt.replay.evaluate import Evaluation, evaluate, make_controller
from diffusion_policy_rt.replay.nearest import Demonstrations, NearestController, whole_rows
from diffusion_policy_rt.runtime.sampler import sample
from diffusion_policy_rt.runtime.variants import (
    REDUCED_NOISE, REDUCED_START, VARIANTS, Variant, make_schedule, with_variant)
from diffusion_policy_rt.sim.block import keypoints, middle
from diffusion_policy_rt.sim.pusht import PushT
from diffusion_policy_rt.spec import PolicySpec, Schedule

DATA = Path(__file__).parents[2] / 'shared/data/pusht/pusht_lowdim.npz'
needs_data = pytest.mark.skipif(not DATA.exists(), reason='needs the published demonstrations')
ENDS = np.array([20, 40])


@pytest.fixture(scope='module')
def robot():
    return PushT()


def demonstrations(count=40, **changes):
    """Return two episodes; the block stays in one place per row, actions tell their row."""
    rng = np.random.default_rng(0)
    poses = np.column_stack([rng.uniform(100, 400, (count, 2)), rng.uniform(0, 6, count)])
    fields = {'keypoints': keypoints(poses), 'tools': rng.uniform(50, 450, (count, 2)),
              'actions': np.column_stack([np.arange(count)] * 2).astype(float),
              'episode_ends': ENDS}
    return poses, Demonstrations(**fields | changes)


@needs_data
def test_keypoints_are_the_recorded_ones():
    data = np.load(DATA)
    errors = np.linalg.norm(keypoints(data['state'][:, 2:]) - data['keypoint'], axis=-1).max(1)
    assert np.sqrt((errors**2).mean()) < 0.05 and (errors < 1).mean() > 0.9995


@needs_data
def test_the_start_of_a_demonstration_is_nearest_to_itself(robot):
    data = np.load(DATA)
    controller = NearestController(Demonstrations(
        data['keypoint'], data['state'][:, :2], data['action'], data['episode_ends']))
    for episode in (0, 7, 205):
        row = np.r_[0, data['episode_ends']][episode]
        robot.reset(episode)
        controller.begin(episode)
        targets = [controller.target(step, robot) for step in range(8)]
        np.testing.assert_array_equal(targets, data['action'][row:row + 8])


def test_keypoints_turn_with_the_block():
    there, turned = keypoints(np.array([10.0, 20.0, 0.3])), keypoints(np.array([10, 20, 0.3 + 2]))
    spin = np.array([[np.cos(2), np.sin(2)], [-np.sin(2), np.cos(2)]])
    np.testing.assert_allclose((there - [10, 20]) @ spin, turned - [10, 20], atol=1e-9)


def test_a_placed_robot_is_exactly_there_and_at_rest(robot):
    robot.reset(200_000)
    robot.place(np.array([60.0, 70.0]), np.array([300.0, 310.0, 2.0]))
    np.testing.assert_allclose([*robot.tool, *robot.block], [60, 70, 300, 310, 2], atol=1e-9)
    np.testing.assert_allclose(robot.velocity, 0)
    column, row = (middle(robot.block) * 96 / 512).astype(int)
    seen, elsewhere = robot.render()[row, column], robot.render()[90, 5]
    assert np.abs(seen.astype(int) - elsewhere).max() > 50, 'the block is drawn where it lies'


@pytest.mark.parametrize('execute, count', [(0, 8), (3, 3)])
def test_the_nearest_row_is_replayed_before_the_next_look_up(robot, execute, count):
    poses, data = demonstrations()
    controller = NearestController(data, execute)
    controller.begin(0)
    replayed = []
    for step in range(2 * count):
        row = 5 if step < count else 22
        robot.place(data.tools[row] + 0.1, poses[row])
        replayed.append(controller.target(step, robot)[0])
    assert replayed == [*range(5, 5 + count), *range(22, 22 + count)]


def test_a_new_episode_forgets_the_plan(robot):
    poses, data = demonstrations()
    controller = NearestController(data)
    for row in (3, 30):
        controller.begin(row)
        robot.place(data.tools[row], poses[row])
        assert controller.target(0, robot)[0] == row


def test_block_and_tool_weigh_the_same():
    _, data = demonstrations()
    shift = np.zeros((40, 2))
    shift[::2] = [300, 0]
    points = np.broadcast_to(data.keypoints[:1], (40, 9, 2)).copy()
    points[1::2] += [299, 0]
    controller = NearestController(Demonstrations(points, data.tools[:1] + shift, data.actions,
                                                  ENDS))
    assert controller.nearest(data.keypoints[0], data.tools[0]) % 2 == 1
    points[1::2] += [2, 0]
    controller = NearestController(Demonstrations(points, data.tools[:1] + shift, data.actions,
                                                  ENDS))
    assert controller.nearest(data.keypoints[0], data.tools[0]) % 2 == 0


def test_only_rows_with_actions_enough_are_looked_up():
    assert set(whole_rows(ENDS, 8)) == {*range(13), *range(20, 33)}
    assert set(whole_rows(ENDS, 1)) == set(range(40))
    with pytest.raises(DataError, match='21 actions'):
        whole_rows(ENDS, 21)


def test_the_floor_runs_in_processes_of_its_own():
    what = Evaluation('nearest', demonstrations=demonstrations()[1])
    one, two = (list(evaluate(what, range(200_000, 200_002), workers)) for workers in (1, 2))
    assert [e.coverages for e in one] == [e.coverages for e in two]


@pytest.mark.parametrize('changes, reason', [
    ({'demonstrations': None}, 'give the demonstrations by --data'), ({'delay': 1}, '--delay')])
def test_a_floor_without_data_or_with_latency_is_refused(changes, reason):
    with pytest.raises(DataError, match=reason):
        make_controller(Evaluation(
            'nearest', **{'demonstrations': demonstrations()[1]} | changes))


@pytest.mark.parametrize('name, shape', [('keypoints', (40, 8, 2)), ('tools', (40, 3)),
                                         ('actions', (39, 2))])
def test_demonstrations_of_another_task_are_refused(name, shape):
    with pytest.raises(DataError, match=name):
        demonstrations(**{name: np.zeros(shape)})


@pytest.mark.parametrize('kind', ['edm', 'ddpm', 'flow'])
@pytest.mark.parametrize('sampler', VARIANTS)
def test_every_sampler_runs_in_any_number_of_steps_from_one(kind, sampler):
    spec = tiny_spec(kind=kind)
    for steps in (1, 2, 3, 5, 10, 16):
        variant = Variant(sampler, precond('ddpm').levels[-1] if kind == 'ddpm' else 0.0)
        changed = with_variant(spec, variant, steps)
        made = changed.schedule(steps)
        x = sample(lambda x, sigma, *_: x / (1 + sigma), made, np.ones((8, 2)),
                   spec.precond.sigma_data)
        assert len(made.sigmas) == steps and np.isfinite(x).all()
        assert {n: s for n, s in changed.schedules.items() if n != steps} == {
            n: s for n, s in spec.schedules.items() if n != steps}


@pytest.mark.parametrize('kind', ['edm', 'ddpm', 'flow'])
def test_ddim_of_a_served_count_is_what_the_bundle_serves(kind):
    spec = tiny_spec(kind=kind)
    for steps in spec.steps:
        assert make_schedule(spec, Variant('ddim'), steps) == spec.schedule(steps)


@pytest.mark.parametrize('kind, deviation', [('edm', 0.5), ('flow', 1.0)])
def test_reduced_noise_starts_low_with_little_fresh_noise(kind, deviation):
    made = make_schedule(tiny_spec(kind=kind), Variant('reduced-noise'), 2)
    assert made.kind == 'ancestral' and made.noise_scale == REDUCED_NOISE == 0.2
    assert made.sigmas[0] == pytest.approx(REDUCED_START * deviation)
    angles = np.arctan(np.array(made.sigmas) / deviation)
    assert angles[1] == pytest.approx(angles[0] / 2)


def test_reduced_noise_of_ddpm_visits_training_levels_from_the_start_level():
    spec = tiny_spec(kind='ddpm')
    levels = spec.precond.levels
    made = make_schedule(spec, Variant('reduced-noise', start=levels[9] * 1.01), 2)
    assert made.sigmas == (levels[9], levels[4])


def test_start_and_noise_scale_can_be_chosen():
    made = make_schedule(tiny_spec(), Variant('ancestral', 3.0, 0.5), 4)
    assert made.sigmas[0] == pytest.approx(3) and made.noise_scale == 0.5


@pytest.mark.parametrize('fields, reason', [
    (('euler',), 'use ddim, ancestral'), (('ddim', 0.0, 0.5), 'no noise'),
    (('ancestral', 0.0, 1.5), 'noise_scale 1.5'), (('ddim', 0.01), 'falling'),
    (('ddim', -1.0), 'start -1.0'), (('reduced-noise', float('nan')), 'start nan')])
def test_a_sampler_that_cannot_be_is_refused(fields, reason):
    with pytest.raises(SpecError, match=reason):
        with_variant(tiny_spec(), Variant(*fields), 2)


def test_more_steps_than_training_levels_are_refused():
    with pytest.raises(SpecError, match='21 steps of 20'):
        with_variant(tiny_spec(kind='ddpm'), Variant('ddim'), 21)


@pytest.mark.parametrize('scale', [0.0, 0.2, 1.0])
def test_the_fresh_noise_of_an_ancestral_step_is_scaled(scale):
    seen, schedule = [], Schedule('ancestral', (2.0, 1.0), scale)
    sample(lambda x, *_: seen.append(x) or np.zeros_like(x), schedule, np.ones((4000, 2)))
    expected = 0.25 * np.hypot(2, 1)
    assert abs(seen[1].mean() - expected) < 0.05
    assert seen[1].std() == pytest.approx(scale * np.sqrt(0.75), rel=0.05, abs=1e-9)


def test_the_noise_scale_survives_json_and_is_optional_in_it():
    spec = with_variant(tiny_spec(), Variant('reduced-noise'), 2)
    data = spec.to_json()
    assert PolicySpec.from_json(data) == spec
    del data['schedules']['2']['noise_scale']
    assert PolicySpec.from_json(data).schedule(2).noise_scale == 1


def test_a_bundle_is_evaluated_by_another_sampler_in_a_count_it_does_not_serve():
    what = Evaluation('pusht', steps=3, variant=Variant('reduced-noise'))
    controller, steps, _ = make_controller(what)
    assert steps == 3 and controller.loop.spec.schedule(3).noise_scale == REDUCED_NOISE
    with pytest.raises(SpecError, match='serves'):
        make_controller(dataclasses.replace(what, variant=None))
