"""Training: a run that was killed and resumed is the run that was not."""

import dataclasses

import numpy as np
import pytest
from fakes import KEYPOINT_MLP, tiny_spec

torch = pytest.importorskip('torch', reason='training needs torch')

from diffusion_policy_rt.errors import DprtError  # noqa: E402
from diffusion_policy_rt.model.policy import Policy  # noqa: E402
from diffusion_policy_rt.train.distributed import World  # noqa: E402
from diffusion_policy_rt.train.feed import Whole  # noqa: E402
from diffusion_policy_rt.train.objectives import (  # noqa: E402
    KeypointObjective, LatentObjective, PixelObjective)
from diffusion_policy_rt.train.recipe import Training  # noqa: E402
from diffusion_policy_rt.train.trainer import Trainer  # noqa: E402
from diffusion_policy_rt.train.windows import make_windows  # noqa: E402

torch.set_num_threads(1)
CPU = torch.device('cpu')
WORLD = World(0, 1, CPU)
HOW = Training(epochs=4, batch_size=32, learning_rate=1e-3, warmup_steps=2)
ROWS = 100
HELD_OUT = np.arange(ROWS) >= 80
SPEC = tiny_spec()


def latent_objective(seed):
    torch.manual_seed(seed)
    rng = np.random.default_rng(0)
    return LatentObjective(
        Policy(SPEC, KEYPOINT_MLP), rng.standard_normal((ROWS, SPEC.cond_dim), np.float32),
        rng.standard_normal((ROWS, 8, 2), np.float32), HELD_OUT, np.ones(ROWS, bool),
        np.full(SPEC.cond_dim, 0.01), HOW, CPU)


def pixel_objective(seed):
    torch.manual_seed(seed)
    rng = np.random.default_rng(0)
    spec = tiny_spec(crop=(10, 14))
    windows = make_windows(np.array([40, ROWS]), 2, 8)
    images = rng.integers(0, 256, (ROWS, 12, 16, 3), dtype=np.uint8)
    return PixelObjective(
        Policy(spec, KEYPOINT_MLP), Whole({'front': images}, CPU), rng.standard_normal((ROWS, 3)),
        windows.observed, rng.standard_normal((ROWS, 8, 2), np.float32), HELD_OUT, HOW, CPU)


def keypoint_objective(seed):
    torch.manual_seed(seed)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (ROWS, 12, 16, 3), dtype=np.uint8)
    targets = rng.uniform(-1, 1, (ROWS, 8)).astype(np.float32)
    return KeypointObjective(Policy(SPEC, KEYPOINT_MLP).encoders['front'], SPEC.camera('front'),
                             Whole({'front': images}, CPU), targets, HELD_OUT, 2, CPU)


def trainer(objective, path, fingerprint='run', how=HOW):
    return Trainer(objective, how, WORLD, 3, path / 'policy.ckpt', fingerprint)


def killed(objective, path, step):
    """Train until the loss of this step, then be killed."""
    run, real = trainer(objective, path), objective.loss

    def loss(*args):
        if run.step == step:
            raise KeyboardInterrupt
        return real(*args)

    objective.loss = loss
    with pytest.raises(KeyboardInterrupt):
        run.run('test')


@pytest.mark.parametrize('make', [latent_objective, pixel_objective, keypoint_objective])
def test_a_run_that_was_killed_and_resumed_is_the_run_that_was_not(tmp_path, make):
    whole = trainer(make(0), tmp_path / 'whole')
    expected = whole.run('test')
    killed(make(0), tmp_path / 'killed', step=5)  # in the third of four epochs of two steps
    resumed = trainer(make(99), tmp_path / 'killed')  # other first weights: none must be left
    assert resumed.resume() and resumed.step == 4  # only the epoch under way is lost
    result = resumed.run('test')
    assert resumed.step == whole.step == 8
    for curve in ('train', 'validation'):
        assert getattr(resumed.history, curve) == getattr(whole.history, curve)
    assert len(whole.history.validation) == 4 and np.isfinite(whole.history.validation).all()
    for pair in ((result, expected), (resumed.module, whole.module)):
        states = [module.state_dict() for module in pair]
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[1])


def test_a_finished_run_is_only_read_again(tmp_path):
    expected = trainer(latent_objective(0), tmp_path).run('test').state_dict()
    again = latent_objective(99)
    again.loss = None
    made = trainer(again, tmp_path).run('test').state_dict()
    assert all(torch.equal(made[name], expected[name]) for name in expected)


def test_the_time_spent_is_that_of_all_resumptions(tmp_path):
    whole = trainer(latent_objective(0), tmp_path)
    whole.run('test')
    again = trainer(latent_objective(0), tmp_path)
    again.run('test')
    assert again.history.seconds == whole.history.seconds > 0


def test_the_checkpoint_of_another_run_is_refused_and_kept(tmp_path):
    trainer(latent_objective(0), tmp_path).run('test')
    before = (tmp_path / 'policy.ckpt').read_bytes()
    with pytest.raises(DprtError, match='another recipe, seed or data set'):
        trainer(latent_objective(0), tmp_path, 'other').run('test')
    assert (tmp_path / 'policy.ckpt').read_bytes() == before


@pytest.mark.parametrize('bad', [float('nan'), float('inf')])
def test_a_loss_that_is_not_finite_stops_the_run_and_spares_the_checkpoint(tmp_path, bad):
    killed(latent_objective(0), tmp_path, step=5)
    before = (tmp_path / 'policy.ckpt').read_bytes()
    objective = latent_objective(0)
    real = objective.loss
    objective.loss = lambda *args: real(*args) * bad
    run = trainer(objective, tmp_path)
    with pytest.raises(DprtError, match='non-finite at step 4.*lower the learning rate'):
        run.run('test')
    assert (tmp_path / 'policy.ckpt').read_bytes() == before
    assert all(p.isfinite().all() for p in run.module.parameters())


def test_every_row_is_seen_at_most_once_per_epoch_and_held_out_rows_never(tmp_path):
    run = trainer(latent_objective(0), tmp_path)
    epochs = [np.concatenate([run.rows_at(2 * k + j) for j in range(2)]) for k in range(2)]
    for rows in epochs:
        assert len(set(rows)) == len(rows) == 64 and not HELD_OUT[rows].any()
    assert set(epochs[0]) != set(epochs[1])


def test_the_processes_of_one_run_share_each_batch_without_overlap(tmp_path):
    whole = trainer(latent_objective(0), tmp_path).rows_at(1)
    parts = [Trainer(latent_objective(0), HOW, World(rank, 2, CPU), 3, tmp_path / 'c', 'run')
             .rows_at(1) for rank in range(2)]
    assert sorted(np.concatenate(parts)) == sorted(whole)


def test_the_learning_rate_rises_then_falls_to_nothing(tmp_path):
    how = dataclasses.replace(HOW, epochs=50, warmup_steps=5)
    run = trainer(latent_objective(0), tmp_path, how=how)
    rates = [run.rate_at(step) for step in range(run.total)]
    assert (np.diff(rates[:6]) >= 0).all() and (np.diff(rates[5:]) <= 0).all()
    assert max(rates) == HOW.learning_rate and 0 < rates[0] and 0 <= rates[-1] < 1e-5
