"""Mode coverage: which way chunks go, which states count, and what a student keeps."""

import numpy as np
import pytest

from diffusion_policy_rt.errors import DataError, EngineError
from diffusion_policy_rt.replay import modes
from diffusion_policy_rt.replay.evaluate import Evaluation
from diffusion_policy_rt.replay.modes import (
    MARGIN, OFFSETS, Crossroads, compare, draw, kept_modes, make_loop, search, shares, sideways,
    watershed)
from diffusion_policy_rt.sim.block import GOAL, middle
from diffusion_policy_rt.sim.crossroads import crossroads
from diffusion_policy_rt.sim.pusht import PushT

SEEDS = range(200_000, 200_040)
TOOL, BLOCK = np.array([100.0, 100.0]), np.array([200.0, 200.0])


@pytest.fixture(scope='module')
def robot():
    return PushT()


def chunks(offsets, turn=0.0):
    """Return chunks that run 100 px along the line from tool to block and end beside it."""
    t = np.linspace(0, 1, 16)[None, :, None]
    line = (BLOCK - TOOL) / np.linalg.norm(BLOCK - TOOL)
    across = np.array([-line[1], line[0]])
    ends = 100 * line + np.asarray(offsets, float)[:, None] * across
    spin = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    return TOOL + (t * ends[:, None]) @ spin


def test_sideways_is_the_distance_of_the_end_from_the_line():
    np.testing.assert_allclose(sideways(chunks([70, -40, 0]), TOOL, BLOCK), [70, -40, 0],
                               atol=1e-9)


@pytest.mark.parametrize('turn', [0.5, 2.0, 4.0])
def test_the_way_does_not_depend_on_where_the_line_points(turn):
    spin = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    block = TOOL + (BLOCK - TOOL) @ spin
    np.testing.assert_allclose(sideways(chunks([70, -40], turn), TOOL, block), [70, -40])


def test_a_mirrored_set_of_chunks_swaps_the_shares():
    offsets = np.array([80, 60, 50, -70])
    there, back = (shares(chunks(sign * offsets), TOOL, BLOCK) for sign in (1, -1))
    np.testing.assert_allclose(there, [0.75, 0.25])
    np.testing.assert_allclose(back, there[::-1])


def test_chunks_that_run_into_the_block_go_neither_way():
    np.testing.assert_allclose(shares(chunks([0, MARGIN - 1, 1 - MARGIN, 90]), TOOL, BLOCK),
                               [0.25, 0])


def test_a_student_that_averages_or_always_goes_left_loses_modes():
    teacher = np.array([[0.6, 0.4]] * 10)
    students = {'same': [0.5, 0.5], 'left': [1.0, 0.0], 'straight': [0.0, 0.0]}
    found = {name: kept_modes(np.array([s] * 10), teacher, SEEDS[:10])
             for name, s in students.items()}
    assert [found[n]['mode_coverage'] for n in students] == [1.0, 0.5, 0.0]
    assert found['left']['both_kept'] == 0 and found['straight']['straight_share'] == 1


@pytest.mark.parametrize('share, kept', [(0.14, 2), (0.13, 1)])
def test_a_mode_is_kept_at_a_third_of_the_teachers_share(share, kept):
    result = kept_modes(np.array([[1 - share, share]]), np.array([[0.6, 0.4]]), SEEDS[:1])
    assert result['modes_kept'] == kept and result['modes'] == 2


def test_only_states_where_the_teacher_goes_both_ways_count():
    teacher = np.array([[0.6, 0.4], [0.95, 0.05], [0.3, 0.3], [0.2, 0.8]])
    result = kept_modes(teacher, teacher, SEEDS[:4])
    assert result['states'] == 2 and result['mode_coverage'] == 1
    assert [s['seed'] for s in result['per_state']] == [SEEDS[0], SEEDS[3]]
    with pytest.raises(DataError, match='none of 1 states'):
        kept_modes(teacher[1:2], teacher[1:2], SEEDS[:1])


def test_at_every_crossroads_the_block_stands_between_the_tool_and_its_way(robot):
    for seed in SEEDS:
        tool, pose = crossroads(seed)
        centre = middle(pose)
        push = middle(GOAL) - centre  # where the block must go; the tool is on that side of it
        assert push @ (tool - centre) > 0.9 * np.linalg.norm(push) * np.linalg.norm(tool - centre)
        for offset in (OFFSETS[0], 0.0, OFFSETS[-1]):
            moved, same = crossroads(seed, offset)
            assert np.linalg.norm(moved - tool) == pytest.approx(abs(offset))
            assert 15 < moved.min() and moved.max() < 497 and np.array_equal(same, pose)
            robot.place(moved, pose)
            robot.step(moved)
            assert np.allclose(robot.block, pose, atol=1e-6), 'tool and block are apart'


def test_the_watershed_is_where_the_chunks_split_most_evenly(monkeypatch):
    def turning_at_20(policy, robot, seed, offset, count):
        left = 1 / (1 + np.exp((offset - 20) / 5))
        return np.array([left, 1 - left])

    monkeypatch.setattr(modes, 'way_shares', turning_at_20)
    assert watershed(None, None, 0) == 20


def test_the_crossroads_follow_their_seeds():
    assert np.array_equal(crossroads(1)[0], crossroads(1)[0])
    assert len({tuple(crossroads(seed)[0]) for seed in SEEDS}) == len(SEEDS)


def test_draws_differ_by_their_noise_alone_and_repeat(robot):
    loop, steps = make_loop(Evaluation('pusht', steps=1))
    robot.place(*crossroads(SEEDS[0]))
    one, two = (draw(loop, robot, steps, 4) for _ in range(2))
    assert one.shape == (4, loop.spec.horizon, 2) and np.array_equal(one, two)
    assert len({chunk.tobytes() for chunk in one}) == 4


def test_a_chunk_that_is_not_finite_ends_the_count(robot, monkeypatch):
    loop, steps = make_loop(Evaluation('pusht', steps=1))
    monkeypatch.setattr(loop.engine, 'denoise', lambda *_: np.full((16, 2), np.nan))
    with pytest.raises(EngineError, match='not finite'):
        draw(loop, robot, steps, 2)


def test_modes_are_counted_of_bundles_only():
    with pytest.raises(DataError, match='random draws no chunks'):
        make_loop(Evaluation('random'))


def test_a_policy_held_against_itself_by_the_same_noise_keeps_every_mode(monkeypatch):
    monkeypatch.setattr(modes, 'SPLIT', 0.0)
    monkeypatch.setattr(modes, 'STRAIGHT', 1.0)
    what = Evaluation('pusht', steps=1)
    states = list(search(what, SEEDS[:3], 1))
    result = compare(what, states, 1)
    assert result['states'] == 3 and result['mode_coverage'] == 1
    assert [s.seed for s in states] == list(SEEDS[:3])
    assert list(search(what, SEEDS[:3], 2)) == states, 'processes change nothing'


def test_a_student_draws_only_where_the_teacher_goes_both_ways(monkeypatch):
    asked = []
    monkeypatch.setattr(modes, 'way_shares', lambda policy, robot, seed, offset: asked.append(
        (seed, offset)) or np.array([0.5, 0.5]))
    states = [Crossroads(1, 5.0, (0.6, 0.4)), Crossroads(2, 6.0, (1.0, 0.0)),
              Crossroads(3, 7.0, (0.5, 0.5))]
    result = compare(Evaluation('pusht', steps=1), states, 1)
    assert asked == [(1, 5.0), (3, 7.0)] and result['states'] == 2 and result['candidates'] == 3
