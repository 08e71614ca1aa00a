"""Closed-loop evaluation: the protocol, its figures, and latency that is charged."""

import dataclasses

import numpy as np
import pytest

from diffusion_policy_rt.errors import BundleError, EngineError, SpecError
from diffusion_policy_rt.replay.episode import (
    Episode, PolicyController, RandomController, run_episode)
from diffusion_policy_rt.replay.evaluate import (
    Evaluation, bootstrap, default_steps, evaluate, make_controller, outcome, summarise)
from diffusion_policy_rt.replay.pictures import write_sheet
from diffusion_policy_rt.replay.seams import continuity
from diffusion_policy_rt.sim.pusht import MAX_STEPS, PushT
from diffusion_policy_rt.sim.tasks import PUSHT


class Script:
    """A controller that records what it was asked and pushes nowhere."""

    seams = ()

    def __init__(self):
        self.began, self.steps = [], []

    def begin(self, seed):
        self.began.append(seed)

    def target(self, step, robot):
        self.steps.append(step)
        return robot.tool


@pytest.fixture(scope='module')
def robot():
    return PushT()


def test_an_episode_without_success_lasts_300_steps(robot):
    script = Script()
    episode = run_episode(script, robot, 100_000, picture_every=100)
    assert script.began == [100_000] and script.steps == list(range(MAX_STEPS))
    assert len(episode.coverages) == len(episode.targets) == MAX_STEPS
    assert len(episode.pictures) == 4 and not episode.success


def test_success_ends_the_episode(robot, monkeypatch):
    covered = iter([0.5, 0.94, 0.951])
    monkeypatch.setattr(robot, 'coverage', lambda: next(covered))
    episode = run_episode(Script(), robot, 100_000)
    assert episode.success and len(episode.coverages) == 3 and episode.max_coverage == 1


def test_the_score_is_the_best_coverage_not_the_last():
    episode = Episode(7, coverages=[0.1, 0.475, 0.2], targets=[np.zeros(2)] * 3)
    assert episode.max_coverage == pytest.approx(0.5) and not episode.success


def test_straight_motion_has_no_jerk_and_a_zigzag_has():
    line = [np.array([5.0 * t, 3.0 * t]) for t in range(20)]
    zigzag = [np.array([5.0 * (t % 2), 0.0]) for t in range(20)]
    assert Episode(0, [0.0], line).jerk == pytest.approx(0, abs=1e-6)
    assert Episode(0, [0.0], zigzag).jerk == pytest.approx(20 * 1000)


def test_the_interval_holds_the_mean_and_narrows_with_more_episodes():
    values = np.random.default_rng(0).uniform(size=400)
    (low, high), (narrow_low, narrow_high) = bootstrap(values[:40]), bootstrap(values)
    assert low < values[:40].mean() < high and narrow_high - narrow_low < high - low


def test_the_mean_of_the_episodes_is_the_mean_that_is_reported():
    episodes = [Episode(s, [c], [np.zeros(2)]) for s, c in ((1, 0.2), (2, 0.96), (3, 0.5))]
    result = summarise([outcome(episode) for episode in episodes])
    scores = [e['max_coverage'] for e in result['per_episode']]
    assert result['mean_max_coverage'] == pytest.approx(np.mean(scores))
    assert result['success_rate'] == pytest.approx(1 / 3)
    assert [e['success'] for e in result['per_episode']] == [False, True, False]


def test_the_same_seeds_give_the_same_episodes_in_one_process_or_two():
    what = Evaluation('random')
    one, two = (list(evaluate(what, range(100_000, 100_003), workers)) for workers in (1, 2))
    assert [e.coverages for e in one] == [e.coverages for e in two]
    assert [e.seed for e in two] == [100_000, 100_001, 100_002]


@pytest.mark.parametrize('workers', [1, 2])
def test_what_cannot_be_prepared_is_told_by_the_processes(workers):
    with pytest.raises(BundleError, match='no bundle'):
        list(evaluate(Evaluation('/nowhere'), range(100_000, 100_002), workers))


def test_the_shipped_policy_repeats_itself_bit_for_bit(robot):
    runs = []
    for _ in range(2):
        controller, *_ = make_controller(Evaluation('pusht', steps=1))
        runs.append(run_episode(controller, robot, 100_004).targets)
    assert np.array_equal(*map(np.array, runs))


def test_latency_is_charged_by_what_the_policy_sees(robot):
    controller, *_ = make_controller(Evaluation('pusht', steps=1, delay=3))
    assert isinstance(controller, PolicyController)
    robot.reset(100_000)
    controller.begin(100_000)
    starts = [controller.target(step, robot) for step in range(3)]
    assert np.array_equal(starts, [robot.tool] * 3), 'nothing is known yet: the tool stays put'
    controller.target(3, robot)
    assert controller.loop.newest_frame.stamp_ns == 0, 'step 3 plans from the image of step 0'


@pytest.mark.parametrize('delay', [0, 2])
def test_seams_are_the_steps_at_which_a_chunk_takes_over_and_latency_counts(robot, delay):
    controller, *_ = make_controller(Evaluation('pusht', steps=1, delay=delay, execute=5))
    episode = run_episode(controller, robot, 100_001)
    assert episode.seams == tuple(range(5, len(episode.targets), 5 - delay))
    seam, within = episode.jumps()
    assert len(seam) == len(episode.seams) and len(seam) + len(within) == len(episode.targets) - 1
    far = np.linalg.norm(episode.targets[5] - episode.targets[4])
    assert seam[0] == far


def test_the_jump_at_seams_is_told_relative_to_that_within_chunks():
    outcomes = [{'seam_jumps': [6.0] * 50, 'chunk_jumps': [1.0, 2.0] * 60},
                {'seam_jumps': [1.0] * 50, 'chunk_jumps': [5.0] * 80}]
    told = continuity(outcomes)
    assert (told['count'], told['chunk_p99'], told['seam_p99']) == (100, 5, 6)
    assert told['ratio'] == pytest.approx(1.2) and told['within_1.2'] == 1
    assert continuity([{'seam_jumps': [], 'chunk_jumps': [1.0]}]) is None


def test_a_failing_plan_ends_the_evaluation(robot, monkeypatch):
    controller, *_ = make_controller(Evaluation('pusht', steps=1))
    monkeypatch.setattr(controller.loop.engine, 'denoise', lambda *_: np.full((16, 2), np.nan))
    with pytest.raises(EngineError, match='not finite'):
        run_episode(controller, robot, 100_000)


def test_an_unknown_step_count_or_bundle_is_refused():
    with pytest.raises(SpecError, match='serves'):
        make_controller(Evaluation('pusht', steps=3))
    with pytest.raises(BundleError, match='no bundle'):
        make_controller(Evaluation('/nowhere'))


@pytest.mark.parametrize('served, chosen', [((1, 2, 100), 2), ((4, 8, 16), 8), ((50, 100), 50)])
def test_the_default_is_the_most_steps_up_to_8(served, chosen):
    assert default_steps(served) == chosen


def test_random_targets_fill_the_square_and_follow_the_seed(robot):
    draws = []
    for seed in (1, 1, 2):
        controller = RandomController()
        controller.begin(seed)
        draws.append([controller.target(i, robot) for i in range(500)])
    assert np.array_equal(draws[0], draws[1]) and not np.array_equal(draws[0], draws[2])
    assert np.min(draws) < 10 and np.max(draws) > 502


def test_a_contact_sheet_is_written(robot, tmp_path):
    episodes = [run_episode(Script(), robot, seed, picture_every=150) for seed in (1000, 1001)]
    write_sheet(tmp_path / 'sheet.png', episodes)
    assert (tmp_path / 'sheet.png').stat().st_size > 1000


def test_tiles_change_no_action_and_are_there(robot):
    made = {}
    for tiles in (False, True):
        controller, *_ = make_controller(Evaluation('pusht', 1, tiles=tiles))
        short = dataclasses.replace(PUSHT, max_steps=24)
        targets = np.array(run_episode(controller, robot, 200_000, task=short).targets)
        made[tiles] = targets, controller.loop.cache_figures()
    np.testing.assert_array_equal(made[False][0], made[True][0])
    kept = {name for name in made[True][1] if name.startswith('tiles.')}
    assert kept and not kept & set(made[False][1])
