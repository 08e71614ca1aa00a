"""The simulated robot is the one the demonstrations were recorded on."""

from pathlib import Path

import numpy as np
import pytest

from diffusion_policy_rt.sim.pusht import PushT, start_state
from diffusion_policy_rt.sim.score import Account
from diffusion_policy_rt.sim.tasks import PUSHT

DATA = Path(__file__).parents[2] / 'shared/data/pusht'
FIRST_TOOL = (222.0, 97.0)  # the first row of the published demonstrations


@pytest.fixture(scope='module')
def robot():
    return PushT()


def test_seed_0_starts_where_the_first_demonstration_does():
    assert tuple(start_state(0)[:2]) == FIRST_TOOL


def test_the_same_seed_and_targets_give_the_same_episode(robot):
    ends = []
    for _ in range(2):
        robot.reset(100_000)
        for target in ((100, 100), (300, 300), (250, 200)):
            robot.step(np.array(target))
        ends.append((*robot.tool, *robot.block, robot.coverage(), robot.render().sum()))
    assert ends[0] == ends[1]


def test_substeps_add_up_to_a_step(robot):
    ends = []
    for advance in (robot.step, lambda t: [robot.substep(t) for _ in range(PUSHT.substeps)]):
        robot.reset(100_001)
        advance(np.array([400.0, 120.0]))
        ends.append((*robot.tool, *robot.block))
    assert ends[0] == ends[1]


def test_the_tool_goes_to_its_target_when_nothing_is_in_the_way(robot):
    robot.reset(100_002)
    for _ in range(30):
        robot.step(np.array([40.0, 40.0]))
    assert np.abs(robot.tool - 40).max() < 1


@pytest.mark.parametrize('width, height', [(96, 96), (640, 480), (120, 200)])
def test_pictures_have_the_size_asked_for(robot, width, height):
    robot.reset(100_003)
    picture = robot.render(width, height)
    assert picture.shape == (height, width, 3) and picture.dtype == np.uint8


def test_the_score_is_coverage_over_95_percent_within_0_and_1():
    assert [PUSHT.score(c) for c in (-0.1, 0.0, 0.475, 0.95, 1.0)] == [0, 0, 0.5, 1, 1]


def test_recorded_actions_reproduce_the_recorded_episode_and_its_frames(robot):
    if not DATA.is_dir():
        pytest.skip(f'the demonstrations are not at {DATA}')
    low = np.load(DATA / 'pusht_lowdim.npz')
    images = np.load(DATA / 'pusht_cchi_v7_img_u8.npz')['img']
    robot.reset(0)
    for t in range(low['episode_ends'][0]):
        assert np.abs(np.array([*robot.tool, *robot.block[:2]]) - low['state'][t, :4]).max() < 0.01
        if t % 40 == 0:
            assert np.abs(robot.render().astype(float) - images[t]).mean() < 0.5
        robot.step(low['action'][t])


def test_an_episode_is_accounted_for_by_its_best_coverage():
    account = Account(seed=7)
    assert [account.step(c) for c in (0.2, 0.76, 0.1)] == [False] * 3
    told = account.to_json(complete=False)
    assert told['coverage'] == 0.76 and told['max_coverage'] == pytest.approx(0.8)
    assert not told['success'] and account.step(0.951) and account.to_json(True)['success']
