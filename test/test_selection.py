"""`--eval-every`: closed-loop evaluation in training, and the checkpoint that it chooses."""

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import test_cli_distill
import test_cli_train
from test_cli_distill import distill, weights
from test_cli_train import RECIPE, train, write

torch = pytest.importorskip('torch', reason='training needs torch')
pytest.importorskip('gym_pusht', reason='closed loop needs the simulator')

from diffusion_policy_rt.engines.bundle import WEIGHTS, read_bundle, write_bundle  # noqa: E402
from diffusion_policy_rt.engines.torch_engine import load_policy  # noqa: E402
from diffusion_policy_rt.errors import SpecError  # noqa: E402
from diffusion_policy_rt.train.distill.trainer import DistillTrainer  # noqa: E402
from diffusion_policy_rt.train.selection import FIRST_SEED, ClosedLoop, completed  # noqa: E402
from diffusion_policy_rt.train.selection import ClosedLoopReferee as Referee  # noqa: E402
from diffusion_policy_rt.train.trainer import Trainer  # noqa: E402

toy, data = test_cli_distill.toy, test_cli_train.data
EVERY_2 = ('--eval-every', '2', '--eval-episodes', '1', '--eval-steps', '1')


def digest(folder):
    return hashlib.sha256((Path(folder) / WEIGHTS).read_bytes()).hexdigest()


@pytest.fixture
def scored(monkeypatch):
    """Let the score of a bundle be a number that its weights give; tell what was asked."""
    asked = []

    def play(self, folder, steps):
        asked.append((digest(folder), steps))
        score = int(digest(folder)[:6], 16) / 16**6
        return {'mean_max_coverage': score, 'success_rate': 0.0}

    monkeypatch.setattr(Referee, '_play', play)
    return asked


def test_the_epoch_of_the_best_score_is_kept(toy, tmp_path, scored):
    assert distill(toy, tmp_path, 'onedp-s', *EVERY_2[:2], '--eval-steps', '1', '--eval-steps',
                   '4', '--epochs', '5', '--json', str(tmp_path / 'r.json')) == 0
    history = json.loads((tmp_path / 'r.json').read_text())['history']
    assert ['score_1' in epoch for epoch in history] == [False, True, False, True, True]
    assert [steps for _, steps in scored] == [1, 4] * 3
    assert all('energy_1' in epoch for epoch in history)
    scores = {k: (m['score_1'] + m['score_4']) / 2 for k, m in enumerate(history, 1)
              if 'score_1' in m}
    facts = read_bundle(tmp_path / 'run/bundle').training
    assert facts['best_epoch'] == max(scores, key=scores.get) and len(set(scores.values())) == 3
    kept = dict(zip(scores, [d for d, _ in scored[::2]]))[facts['best_epoch']]
    assert digest(tmp_path / 'run/bundle') == kept
    assert facts['measures'] == history[facts['best_epoch'] - 1]


@pytest.mark.parametrize('method', ['onedp-s', 'consistency'])
def test_a_run_killed_and_resumed_chooses_the_same(toy, tmp_path, scored, monkeypatch,
                                                   method):
    step = DistillTrainer.train_step
    more = ('--eval-every', '1', '--epochs', '4')
    assert distill(toy, tmp_path / 'whole', method, *more) == 0
    best = read_bundle(tmp_path / 'whole/run/bundle').training['best_epoch']

    def killed(self):
        if self.step == 3 * self.per_epoch + 1:  # in the last epoch, after the others were scored
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(DistillTrainer, 'train_step', killed)
    assert distill(toy, tmp_path / 'cut', method, *more) == 130
    monkeypatch.setattr(DistillTrainer, 'train_step', step)
    scored.clear()
    assert distill(toy, tmp_path / 'cut', method, *more) == 0
    assert len(scored) == 1, 'what was evaluated is not evaluated again'
    assert weights(tmp_path / 'cut') == weights(tmp_path / 'whole')
    assert read_bundle(tmp_path / 'cut/run/bundle').training['best_epoch'] == best


def test_the_simulator_is_driven_on_seeds_of_its_own(toy, tmp_path, monkeypatch):
    from diffusion_policy_rt.replay import evaluate
    real, seen = evaluate.run_episode, []
    monkeypatch.setattr(evaluate, 'run_episode', lambda controller, robot, seed, *more: (
        seen.append(seed) or real(controller, robot, seed, *more)))
    assert distill(toy, tmp_path, 'onedp-d', '--eval-every', '3', '--eval-episodes', '2',
                   '--json', str(tmp_path / 'r.json')) == 0
    assert seen == [FIRST_SEED, FIRST_SEED + 1] == [300_000, 300_001]
    last = json.loads((tmp_path / 'r.json').read_text())['history'][-1]
    assert 0 <= last['score_1'] <= 1 and last['success_1'] in (0, 0.5, 1)


def test_another_way_of_evaluation_is_another_run(toy, tmp_path, scored, capsys):
    assert distill(toy, tmp_path, 'onedp-d', *EVERY_2) == 0
    before = weights(tmp_path)
    for other in ((), ('--eval-every', '1')):
        assert distill(toy, tmp_path, 'onedp-d', *other) == 1
        assert 'another --eval-every' in capsys.readouterr().err
    assert weights(tmp_path) == before
    assert distill(toy, tmp_path, 'onedp-d', *EVERY_2) == 0


def slower(toy, tmp_path):
    """Return a copy of the teacher at another rate: another task."""
    bundle = read_bundle(toy[1])
    spec = dataclasses.replace(bundle.spec, rate=20.0)
    return write_bundle(tmp_path / 'slow', {
        'spec': spec.to_json(), 'model': dict(bundle.model), 'training': dict(bundle.training)},
        lambda folder: [shutil.copy(bundle.path(f), folder / f) for f in bundle.files]).folder


def test_a_policy_of_another_task_gets_one_line_before_training(toy, tmp_path,
                                                                capsys):
    assert distill(toy, tmp_path, 'onedp-d', *EVERY_2, teacher=slower(toy, tmp_path)) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith('dprt distill: --eval-every: toy is a policy of no simulated robot')
    assert not (tmp_path / 'run').exists()


def test_a_step_count_that_is_not_served_is_refused_before_training(toy, tmp_path,
                                                                    capsys):
    assert distill(toy, tmp_path, 'onedp-d', '--eval-every', '1', '--eval-steps', '2') == 1
    assert 'serves [1] steps, not 2' in capsys.readouterr().err
    assert not (tmp_path / 'run').exists()


def test_training_keeps_the_epoch_of_the_best_score_too(data, tmp_path, scored):
    recipe = write(tmp_path, RECIPE)
    assert train(data, tmp_path / 'run', recipe, '--eval-every', '1') == 0
    stage = read_bundle(tmp_path / 'run/bundle').training['stages']['denoiser']
    kept = scored[stage['best_epoch'] - 1]
    assert len(scored) == 3 and kept == (digest(tmp_path / 'run/bundle'), 2)
    assert kept[0] == max((d for d, _ in scored), key=lambda d: int(d[:6], 16))
    assert 'best_epoch' not in read_bundle(
        tmp_path / 'run/bundle').training['stages']['encoder_front']
    assert stage['measures'].keys() == {'score_2', 'success_2'}


def test_training_of_another_task_stops_before_the_first_step(data, tmp_path,
                                                              capsys, monkeypatch):
    def unexpected(self):
        raise AssertionError('trained')

    monkeypatch.setattr(Trainer, 'train_step', unexpected)
    recipe = write(tmp_path, {**RECIPE, 'rate': 20.0})
    assert train(data, tmp_path / 'run', recipe, '--eval-every', '1') == 1
    assert 'is a policy of no simulated robot' in capsys.readouterr().err
    assert not (tmp_path / 'run').exists()


def test_evaluation_leaves_the_training_as_it_was(toy, scored):
    bundle = read_bundle(toy[1])
    policy = load_policy(bundle)
    module = load_policy(bundle).denoiser.train()
    with torch.no_grad():
        for value in module.parameters():
            value += 1
    before = {k: v.clone() for k, v in policy.state_dict().items()}
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        made = ClosedLoop(1, steps=(1,)).referee(policy, bundle.model).measure(module)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert set(made) == {'score_1', 'success_1'} and module.training
    assert all(torch.equal(v, before[k]) for k, v in policy.state_dict().items())
    assert scored[0][0] != digest(bundle.folder), 'the module is what was evaluated'


def test_what_is_evaluated_copies_no_denoiser_that_is_spread_over_processes(toy, monkeypatch):
    def refuse(*_):
        raise AssertionError('FSDP does not support deepcopy')

    policy, module = load_policy(read_bundle(toy[1])), load_policy(read_bundle(toy[1])).denoiser
    monkeypatch.setattr(policy.denoiser, '__deepcopy__', refuse, raising=False)
    made = completed(policy, module)
    assert made.denoiser is not module and made.encoders is not policy.encoders
    assert all(torch.equal(a, b) for a, b in zip(made.parameters(), policy.parameters()))


@pytest.mark.parametrize('every, epochs, due', [(2, 5, [2, 4, 5]), (3, 2, [2]), (1, 2, [1, 2])])
def test_every_so_many_epochs_and_the_last_are_due(toy, every, epochs, due):
    bundle = read_bundle(toy[1])
    made = ClosedLoop(every).referee(load_policy(bundle), bundle.model)
    assert [k for k in range(1, epochs + 1) if made.due(k, epochs)] == due


def test_the_steps_are_those_given_or_the_default_of_all_commands(toy):
    spec = read_bundle(toy[1]).spec
    assert ClosedLoop(1).served(spec) == (4,) and ClosedLoop(1, 40, (1,)).served(spec) == (1,)
    with pytest.raises(SpecError, match='not 3'):
        ClosedLoop(1, 40, (1, 3)).served(spec)


def test_the_scores_are_drawn_and_told(tmp_path):
    from diffusion_policy_rt.train.curves import write_curves
    from diffusion_policy_rt.train.history import History
    history = History([1.0, 0.5], [1.0, 0.6], [{'score_1': 0.4}, {}], best_epoch=1)
    write_curves(tmp_path / 'with.png', {'denoiser': history})
    write_curves(tmp_path / 'without.png', {'denoiser': History([1.0, 0.5], [1.0, 0.6], [{}, {}])})
    assert (tmp_path / 'with.png').read_bytes() != (tmp_path / 'without.png').read_bytes()
    assert history.news() == {'loss': '0.5000', 'validation': '0.6000', 'score_1': '0.400'}
    assert np.isfinite(history.validation).all()
