"""`dprt tune` makes its stages itself, one when its turn comes, and none twice."""

import json

import bags
import pytest
import yaml

torch = pytest.importorskip('torch', reason='distilling needs torch')
pytest.importorskip('onnxruntime', reason='the policies run on ONNX Runtime')

from test_bag_data import found  # noqa: E402
from test_cli_distill import TRAIN, toy  # noqa: E402, F401

from diffusion_policy_rt.cli.main import main  # noqa: E402
from diffusion_policy_rt.engines.bundle import read_bundle  # noqa: E402
from diffusion_policy_rt.replay import tune as tuning  # noqa: E402
from diffusion_policy_rt.train.distill.trainer import DistillTrainer  # noqa: E402

STAGES = ['as it is', 'quantized', '+ caches', 'distilled, 2 steps',
          'distilled, 1 steps', 'distilled and quantized, 2 steps',
          'distilled and quantized, 1 steps']


@pytest.fixture(scope='module')
def bag(toy, tmp_path_factory):  # noqa: F811
    return bags.write(tmp_path_factory.mktemp('tuned') / 'bag', found(toy[0]))


@pytest.fixture
def seconds(monkeypatch):
    """Let a network call take 10 ms, 4 ms in a quantized bundle, and encoding a frame 2 ms."""
    def times(self, stage, bundle):
        call = 4 if 'quantization' in bundle.quality else 10
        return [1e-3 * (call * stage.steps + 2 * (1 if stage.cached else 2))] * 5

    monkeypatch.setattr(tuning.Tuner, 'times', times)


def tune(toy, bag, out, deadline, *more):  # noqa: F811
    out.mkdir(exist_ok=True)
    (out / 'd.yaml').write_text(yaml.safe_dump({
        'method': 'consistency', 'steps': [1, 2], 'train': TRAIN, 'loss': {}}))
    return main(['tune', '--policy', str(toy[1]), '--bag', str(bag), '--deadline', deadline,
                 '--quality-drop', '1000', '--observations', '8', '--threads', '1', '--method',
                 'consistency', '--distill-recipe', str(out / 'd.yaml'), '--out',
                 str(out / 'run'), '--json', str(out / 'r.json'), *more])


def result(out):
    return json.loads((out / 'r.json').read_text())


def test_a_generous_deadline_stops_at_quantization_and_makes_no_student(
        toy, bag, tmp_path, seconds):  # noqa: F811
    assert tune(toy, bag, tmp_path, '30ms', '--data', str(toy[0])) == 0
    told = result(tmp_path)
    assert [row['stage'] for row in told['ladder']] == STAGES[:2] and not told['left_out']
    assert 'quantization' in read_bundle(told['bundle']).quality
    assert not list((tmp_path / 'run' / 'made').rglob('student'))


def test_a_deadline_that_the_quantized_student_alone_meets_ends_with_it(
        toy, bag, tmp_path, seconds):  # noqa: F811
    assert tune(toy, bag, tmp_path, '8ms') == 0  # on the bag itself
    told = result(tmp_path)
    assert [row['stage'] for row in told['ladder']] == STAGES
    assert [row['meets'] for row in told['ladder']] == [False] * 6 + [True]
    bundle = read_bundle(told['bundle'])
    assert bundle.spec.steps == (1, 2) and 'quantization' in bundle.quality
    assert bundle.quality['tuned']['p99_s'] == pytest.approx(0.006) and told['deadline_s'] == 0.008
    page = (tmp_path / 'run' / 'ladder.md').read_text()
    assert all(stage in page for stage in STAGES) and told['advice'] in page
    assert (tmp_path / 'run' / 'ladder.png').read_bytes().startswith(b'\x89PNG')


def test_a_run_killed_while_it_distils_goes_on_and_makes_nothing_twice(
        toy, bag, tmp_path, seconds, monkeypatch):  # noqa: F811
    step, steps = DistillTrainer.train_step, []

    def counted(self):
        if len(steps) == 7:
            raise KeyboardInterrupt
        steps.append(self.step)
        return step(self)

    monkeypatch.setattr(DistillTrainer, 'train_step', counted)
    assert tune(toy, bag, tmp_path, '15ms') == 130 and not (tmp_path / 'run' / 'bundle').exists()
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / 'run').rglob('quantized/*')}
    assert kept
    steps.append('again')  # what is counted from here on is the second run's
    assert tune(toy, bag, tmp_path, '15ms') == 0
    assert result(tmp_path)['chosen'] == 'distilled, 1 steps'
    assert steps[8] > 0  # it went on from a checkpoint
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
    made = len(steps)
    assert tune(toy, bag, tmp_path, '15ms') == 0 and len(steps) == made
    student = result(tmp_path)['ladder'][-1]['policy']
    assert tune((None, student), bag, tmp_path / 'two', '8ms') == 1
    told = result(tmp_path / 'two')  # what cannot be made is left out, with its reason
    assert [row['stage'] for row in told['ladder']] == [
        'as it is', 'quantized', '+ caches']
    assert [reason.split(':')[0] for reason in told['left_out']] == ['distill']
    assert 'itself a student' in told['left_out'][0]
