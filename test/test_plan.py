"""`dprt plan`: its estimate is what networks hold, and bad questions are refused."""

import json
import re

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='the plan is of torch networks')

from diffusion_policy_rt.cli.main import main  # noqa: E402
from diffusion_policy_rt.model.transformer import TransformerDenoiser  # noqa: E402
from diffusion_policy_rt.train.distributed import World  # noqa: E402
from diffusion_policy_rt.train.plan import (  # noqa: E402
    Shape, Use, memory, parse_count, shape_of, step_seconds)
from diffusion_policy_rt.train.recipe import Optimisation  # noqa: E402
from diffusion_policy_rt.train.sharding import recompute  # noqa: E402
from diffusion_policy_rt.train.trainer import Trainer  # noqa: E402

BATCH = 64


def net_of(shape):
    return TransformerDenoiser(2, shape.horizon, 132, 2, 132, shape.width, shape.layers,
                               shape.heads)


def measured(net, item):
    """Return the bytes that a forward pass keeps for the backward pass, without the weights."""
    own = {p.untyped_storage().data_ptr() for p in net.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = tensor  # held, or its address would be used again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t), torch.autocast(
            'cpu', torch.bfloat16, enabled=item == 2, cache_enabled=False):
        out = net(torch.randn(BATCH, 16, 2), torch.rand(BATCH), torch.randn(BATCH, 132))
    assert out.requires_grad
    return sum(t.untyped_storage().nbytes() for t in kept.values())


@pytest.mark.parametrize('width, layers', [(64, 4), (128, 6), (192, 8)])
def test_activations_and_parameters_are_estimated_within_15_per_cent(width, layers):
    shape = Shape(width, layers, width // 64)
    net = net_of(shape)
    used = memory(shape, Use(1, BATCH, False, 'float32'))
    assert used['activations'] == pytest.approx(measured(net, 4), rel=0.15)
    assert shape.parameters == pytest.approx(sum(p.numel() for p in net.parameters()), rel=0.15)


class Noise:
    """What the plan's transformer learns here: to say nothing."""

    train_rows = np.arange(BATCH)

    def __init__(self, shape):
        self.module = net_of(shape)

    def loss(self, module, rows, rng):
        x, c_noise, cond = (torch.from_numpy(rng.standard_normal((len(rows), *size), np.float32))
                            for size in ((16, 2), (), (132,)))
        return module(x, c_noise, cond).square().mean()

    def validate(self, module):
        return 0.0


def most_allocated(run):
    """Return the most bytes of tensors that were there at a time while `run` ran."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU],
                                profile_memory=True) as profile:
        run()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == '[memory]']
    sizes = [e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())]
    return np.cumsum(sizes).max()


@pytest.mark.parametrize('width, layers', [(64, 3), (128, 4), (192, 3)])
def test_what_a_run_holds_at_most_is_within_15_per_cent_of_the_plan(tmp_path, width, layers):
    shape = Shape(width, layers, width // 64)

    def run():
        trainer = Trainer(Noise(shape), Optimisation(2, BATCH, 1e-3), World(
            0, 1, torch.device('cpu')), 0, tmp_path / 'a.ckpt', 'run')
        for _ in range(2):
            trainer.train_step()

    estimate = memory(shape, Use(1, BATCH, False, 'float32'))['total']
    assert estimate == pytest.approx(most_allocated(run), rel=0.15)


def test_recomputing_keeps_what_the_plan_says():
    shape = Shape(128, 6, 2)
    net = net_of(shape)
    recompute(net)
    one_block = shape.kept(4) * BATCH
    estimate = memory(shape, Use(1, BATCH, False, 'float32', recompute=True))['activations']
    assert measured(net, 4) + one_block == pytest.approx(estimate, rel=0.25)


def test_sharding_divides_what_is_stored_and_nothing_divides_activations():
    shape = shape_of(300e6)
    one, eight = (memory(shape, Use(8, 64, shard)) for shard in (False, True))
    for kind in ('weights', 'gradients', 'moments', 'average'):
        assert eight[kind] == pytest.approx(one[kind] / 8)
    assert eight['activations'] == one['activations']
    assert memory(shape, Use(8, 64, True, accumulate=4))['activations'] < one['activations']


@pytest.mark.parametrize('count', [1e6, 3e7, 1e9, 2e10])
def test_a_shape_has_about_the_parameters_that_were_asked_for(count):
    assert shape_of(count).parameters == pytest.approx(count, rel=0.2)


def test_a_small_batch_waits_for_the_exchange_and_a_large_one_for_the_products():
    shape = shape_of(1e9)
    small, more = (step_seconds(shape, Use(8, n, True), 989e12) for n in (8, 16))
    assert small == more  # samples are free
    large, twice = (step_seconds(shape, Use(8, n, True), 989e12) for n in (2**16, 2**17))
    assert twice == pytest.approx(2 * large)


def test_the_command_says_what_fits(tmp_path, capsys):
    assert main(['plan', '--params', '20B', '--gpus', '8x80GB', '--json',
                 str(tmp_path / 'p.json')]) == 0
    said = json.loads((tmp_path / 'p.json').read_text())
    fits = {(r['precision'], r['shard'], r['recompute']): r['fits'] for r in said['rows']}
    assert fits['bfloat16', True, True] and not fits['bfloat16', False, True]
    out = capsys.readouterr().out
    assert all(source in out for source in said['sources'].values())


@pytest.mark.parametrize('options, reason', [
    (['--params', 'big', '--gpus', '8x80GB'], '--params big'),
    (['--params', '1B', '--gpus', '80GB'], '--gpus 80GB.*8x80GB')])
def test_a_question_that_cannot_be_read_is_refused(capsys, options, reason):
    assert main(['plan', *options]) == 1
    assert re.search(reason, capsys.readouterr().err)


def test_units_are_read():
    assert (parse_count('300M'), parse_count('20b')) == (3e8, 2e10)
