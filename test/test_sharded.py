"""Sharded runs are the run of one process: their curves, their result, killed and resumed."""

import contextlib
import json

import numpy as np
import peers
import pytest
import yaml
from fakes import TRANSFORMER
from test_cli_distill import RECIPE, TRAIN, write_data

torch = pytest.importorskip('torch', reason='training needs torch')

from diffusion_policy_rt.cli.main import main  # noqa: E402
from diffusion_policy_rt.train.distill.trainer import DistillTrainer  # noqa: E402
from diffusion_policy_rt.train.distributed import Strategy, World  # noqa: E402
from diffusion_policy_rt.train.share import BatchShare  # noqa: E402
from diffusion_policy_rt.train.trainer import Trainer  # noqa: E402

TOLERANCE = 1e-4
"""Relative; sums over processes are in another order."""


def alone(folder, distil=False, **strategy):
    """Train in this process; return the trainer and its result."""
    world = World(0, 1, torch.device('cpu'), Strategy(**strategy))
    made = (DistillTrainer if distil else Trainer)(
        peers.task(world) if distil else peers.objective(), peers.how(), world, 3,
        folder / 'alone.ckpt', 'run')
    return made, made.run('test')


def compare(made, expected):
    """Compare weights, but for those whose gradient is rounding, which Adam makes as large as any.

    A softmax does not change when all keys are moved alike, so a key's bias is such.
    """
    assert made.keys() == expected.keys()
    for name, tensor in expected.items():
        if not name.endswith('key.bias'):
            torch.testing.assert_close(made[name], tensor, rtol=1e-3, atol=1e-4)


def check(folder, result, expected, whole):
    for curve in ('train', 'validation'):
        np.testing.assert_allclose(result[curve], getattr(expected.history, curve),
                                   rtol=TOLERANCE)
    made = torch.load(folder / 'whole.pt', weights_only=True)
    compare(made, whole.state_dict())


@pytest.mark.parametrize('distil', [False, True])
def test_two_processes_with_half_of_the_weights_each_are_one(tmp_path, distil):
    running = peers.start(2, tmp_path, distil=distil, shard=True)
    expected, whole = alone(tmp_path, distil)
    for result in peers.results(peers.finish(running)):
        check(tmp_path, result, expected, whole)
        assert 0.4 < result['held'] / result['all'] < 0.6

@pytest.fixture(scope='module')
def taught(tmp_path_factory):
    """Return what is distilled: a transformer's bundle, its data, and a recipe of two epochs."""
    folder = tmp_path_factory.mktemp('taught')
    data, how = write_data(folder / 'data'), folder / 'how.yaml'
    how.write_text(yaml.safe_dump({'method': 'onedp-s', 'steps': [1], 'train': {
        **TRAIN, 'epochs': 2}}))
    (folder / 'recipe.yaml').write_text(yaml.safe_dump(
        {**RECIPE, 'denoiser': TRANSFORMER['denoiser']}))
    assert main(['train', '--data', str(data), '--recipe', str(folder / 'recipe.yaml'), '--out',
                 str(folder), '--threads', '1']) == 0
    return {'teacher': str(folder / 'bundle'), 'data': str(data), 'recipe': str(how)}


def test_distillation_spreads_its_networks_while_it_builds_them(tmp_path, taught):
    running = peers.start(2, tmp_path, shard=True, **taught)
    expected, whole, spread = peers.distillation(
        World(0, 1, torch.device('cpu'), Strategy()), tmp_path / 'alone', **taught)
    assert spread == [False] * 3
    for result in peers.results(peers.finish(running)):
        check(tmp_path, result, expected, whole)
        assert result['spread'] == [True] * 3


def test_a_network_that_is_spread_while_it_is_built_is_the_one_built_whole(tmp_path):
    running = peers.start(2, tmp_path, shard=True, built=True)
    made = Trainer(peers.objective(contextlib.nullcontext()), peers.how(),
                   World(0, 1, torch.device('cpu'), Strategy()), 3, tmp_path / 'alone.ckpt', 'run')
    whole = made.run('test')
    for result in peers.results(peers.finish(running)):
        check(tmp_path, result, made, whole)


def test_a_killed_run_says_so_and_goes_on_in_one_process_and_then_in_four(tmp_path):
    killed = peers.start(2, tmp_path, shard=True, kill=[1, 5])
    expected, whole = alone(tmp_path)
    (code, _, said), (nine, _, _) = peers.finish(killed)
    assert code and nine == 9  # gloo's own threads may abort the process that is left
    assert 'process 0 of 2 lost another one' in said and 'start the same command again' in said
    part, = peers.results(peers.finish(peers.start(1, tmp_path, shard=True, stop=7)))
    assert part['steps'] == [4, 5, 6]  # of what was done only the epoch under way is lost
    np.testing.assert_allclose(part['train'], expected.history.train[:3], rtol=TOLERANCE)
    for result in peers.results(peers.finish(peers.start(
            4, tmp_path, shard=True, accumulate=2, recompute=True))):
        assert result['steps'] == [6, 7]
        check(tmp_path, result, expected, whole)
    facts = json.loads(next(tmp_path.glob('policy.shards/*/run.json')).read_text())
    assert facts['step'] == 8 and len(list(tmp_path.glob('policy.shards/*'))) == 1


def test_a_run_killed_while_it_writes_a_checkpoint_goes_on_from_the_one_before(tmp_path):
    torn = peers.start(1, tmp_path, shard=True, torn=4)
    expected, whole = alone(tmp_path)
    (nine, _, _), = peers.finish(torn)
    left = sorted(path.name for path in tmp_path.glob('policy.shards/*'))
    assert nine == 9 and left == ['000000002', '000000004']
    result, = peers.results(peers.finish(peers.start(1, tmp_path, shard=True)))
    assert result['steps'] == [2, 3, 4, 5, 6, 7]
    check(tmp_path, result, expected, whole)


def test_parts_and_recomputed_activations_leave_the_curve_as_it_is(tmp_path):
    expected, whole = alone(tmp_path / 'a')
    made, result = alone(tmp_path / 'b', accumulate=4, recompute=True)
    np.testing.assert_allclose(made.history.train, expected.history.train, rtol=TOLERANCE)
    compare(result.state_dict(), whole.state_dict())


def test_bfloat16_layers_learn_with_float32_weights(tmp_path):
    expected = alone(tmp_path / 'a')[0]
    made = alone(tmp_path / 'b', precision='bfloat16')[0]
    assert made.history.train != expected.history.train
    np.testing.assert_allclose(made.history.train, expected.history.train, rtol=0.05)
    assert {p.dtype for p in made.module.parameters()} == {torch.float32}


@pytest.mark.parametrize('draw', [
    lambda rng, n: rng.standard_normal((n, 3), np.float32), lambda rng, n: rng.random(n),
    lambda rng, n: rng.integers(5, size=n), lambda rng, n: rng.integers(-9, [9, 3], (n, 2))])
def test_the_parts_of_a_batch_draw_what_the_batch_draws(draw):
    whole = draw(np.random.default_rng((1, 2)), 12)
    parts = [draw(BatchShare((1, 2), part, 4), 3) for part in range(4)]
    for part in range(4):
        np.testing.assert_array_equal(parts[part], whole[part::4])


def test_a_seed_for_something_else_is_another_in_each_part():
    assert len({int(BatchShare((1,), part, 4).integers(2**40)) for part in range(4)}) == 4


def test_a_batch_that_does_not_divide_is_refused(tmp_path):
    with pytest.raises(Exception, match='32 is not divisible by the 5 parts'):
        alone(tmp_path, accumulate=5)
