"""`dprt bench --what cache --episodes`: scores under each cache, paired with none."""

import dataclasses
import json

import numpy as np
import pytest

pytest.importorskip('gym_pusht', reason='the episodes are of Push-T')
pytest.importorskip('torch', reason='the step graphs are exported by torch')

from diffusion_policy_rt.cli.main import main  # noqa: E402
from diffusion_policy_rt.engines.bundle import read_bundle  # noqa: E402
from diffusion_policy_rt.replay import bench_closed as closed  # noqa: E402
from diffusion_policy_rt.replay.bench_cache import BLOCKS, EXACT, NONE  # noqa: E402
from diffusion_policy_rt.runtime.warm import ONE_CALL  # noqa: E402
from diffusion_policy_rt.sim.tasks import PUSHT  # noqa: E402
from diffusion_policy_rt.train.quantize.run import reexport  # noqa: E402

SEED = 200_000
TUNED = f'{closed.WARM} {ONE_CALL:g}'


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Make episodes short."""
    monkeypatch.setattr(closed, 'simulated',
                        lambda what: dataclasses.replace(PUSHT, max_steps=9))


@pytest.fixture(scope='module')
def blocked(tmp_path_factory):
    """Return the shipped policy with a schedule of blocks of 4 steps."""
    shipped = read_bundle('pusht')
    branches = shipped.model['denoiser']['layers']
    fresh = [('1' * branches), ('0' * branches), ('10' * branches)[:branches], ('1' * branches)]
    return reexport(shipped, tmp_path_factory.mktemp('blocked') / 'pusht', blocks={
        '4': {'sigmas': list(shipped.spec.schedule(4).sigmas), 'fresh': fresh}})


def rows_of(blocked, **changes):
    what = closed.Closed(str(blocked.folder), **{'engine': 'onnxruntime', 'steps': 4, **changes})
    made = closed.bench_closed(what, range(SEED, SEED + 2), 1, lambda played, **_: played)
    return {row['cache']: row for row in made}


@pytest.mark.parametrize('noise', [0, 3])
def test_each_cache_plays_the_same_episodes(blocked, noise):
    rows = rows_of(blocked, noise=noise)
    assert list(rows) == [TUNED if cache == closed.WARM else cache for cache in closed.PLAYED]
    for cache in (NONE, EXACT):
        # of the same actions, too, the simulator's coverage differs in the last bit now and then
        assert rows[cache]['unchanged'] == 1 and abs(rows[cache]['difference']) < 1e-12
    assert rows[BLOCKS]['unchanged'] == 0
    blocks = blocked.blocks['4']['fresh']
    kept = ''.join(blocks).count('0') / len(''.join(blocks))
    assert rows[BLOCKS]['blocks_hit_ratio'] == pytest.approx(kept)
    assert rows[EXACT]['blocks_hit_ratio'] is None
    # noise of 3 is a difference of up to 6, which the threshold takes for none
    assert rows[closed.SMALL]['hit_ratio'] > 0.5
    assert rows[EXACT]['hit_ratio'] < 0.2 and rows[NONE]['hit_ratio'] is None


def test_the_noise_is_that_of_the_seed_and_the_step(blocked):
    seen = []
    for keeps in (True, False):
        controller = closed.make_sensed(closed.Closed(str(blocked.folder), 'onnxruntime', 1,
                                                      noise=9), EXACT)
        robot = PUSHT.make()
        for seed in (SEED, SEED + keeps, SEED):
            robot.reset(SEED)
            controller.begin(seed)
            seen.append(controller._look(robot)['front'])
    assert (seen[0] == seen[2]).all() and (seen[0] == seen[5]).all()
    assert (seen[0] != seen[1]).any()


def test_caches_that_do_nothing_are_not_played(blocked):
    assert list(rows_of(blocked, steps=1, engine='torch')) == [NONE, EXACT, TUNED]


def test_a_warm_start_turns_less_than_noise_does(blocked):
    rows = rows_of(blocked, steps=1)
    assert BLOCKS not in rows and rows[TUNED]['unchanged'] == 0
    assert 0 < rows[TUNED]['turn_p50'] < rows[NONE]['turn_p50']


def test_rows_are_those_asked_for_and_a_level_each(blocked):
    rows = rows_of(blocked, steps=1, caches=(closed.WARM,), levels=(1.0, 0.25))
    assert list(rows) == [NONE, f'{closed.WARM} 1', f'{closed.WARM} 0.25']
    still = rows_of(blocked, steps=1, caches=(closed.WARM,), levels=(1.0,), warm_noise=0.0)
    assert still[f'{closed.WARM} 1']['turn_p50'] < rows[f'{closed.WARM} 1']['turn_p50']
    # the lower the level, the nearer a plan stays to the last chunk
    assert rows[f'{closed.WARM} 0.25']['turn_p50'] < rows[f'{closed.WARM} 1']['turn_p50']


@pytest.mark.parametrize('targets, steps', [
    ([[0, 0]], 0), ([[0, 0], [9, 0], [9, 1], [10, 1], [9, 3]], 2), ([[0, 0]] * 5, 4)])
def test_the_longest_stand_is_found(targets, steps):
    assert closed.stood(np.array(targets, float), np.array([1.0, 1.0])) == steps


@pytest.mark.parametrize('more, why', [
    (['--seed', '7'], 'demonstrations'), (['--image', '224'], '--size base, or --what cache'),
    (['--cache', 'latent'], "no cache 'latent'"), (['--level', '-1'], 'no noise level')])
def test_bad_input_is_one_line(capsys, more, why):
    assert main(['bench', '--what', 'cache', '--episodes', '1', *more]) == 1
    assert why in capsys.readouterr().err.strip().splitlines()[-1]


def test_the_command_writes_the_rows(tmp_path):
    assert main(['bench', '--what', 'cache', '--engine', 'onnxruntime', '--episodes', '1',
                 '--seed', str(SEED), '--workers', '1', '--json', str(tmp_path / 'r')]) == 0
    rows = json.loads((tmp_path / 'r').read_text())['rows']
    assert [row['episodes'] for row in rows] == [1] * len(rows)
    assert all(len(row['difference_ci95']) == 2 for row in rows)
