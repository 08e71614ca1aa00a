"""The ladder: in order, to the first rung that holds, and what to do where none does."""

import json
from pathlib import Path

import pytest
from fakes import make_loop

from diffusion_policy_rt.cli.main import main
from diffusion_policy_rt.engines.bundle import read_bundle
from diffusion_policy_rt.errors import SpecError
from diffusion_policy_rt.replay.ladder_page import write_ladder
from diffusion_policy_rt.replay.tune import Aim, Tuner, advice, ladder, plan_times

pytest.importorskip('onnxruntime', reason='the shipped policy runs on ONNX Runtime')


class Timed(Tuner):
    """A tuner on a machine on which a network call takes 1 ms and encoding a frame 1 ms."""

    def times(self, stage, bundle):
        return [1e-3 * (stage.steps + (1 if stage.cached else bundle.spec.n_obs))] * 20


def climb(tmp_path, deadline, quality=lambda stage: 0.9, **more):
    aim = Aim(deadline, **more)
    tuner = Timed(tmp_path, 'onnxruntime', 1, 20, quality)
    return tuner.climb(ladder('pusht_teacher', 0, ['pusht_teacher'], ['pusht']), aim), aim


@pytest.mark.parametrize('deadline, stage', [
    (0.030, 'as it is'), (0.0197, '+ caches'), (0.012, 'distilled (pusht), 8 steps'),
    (0.003, 'distilled (pusht), 1 steps')])
def test_the_first_stack_that_meets_the_deadline_with_margin_is_chosen(tmp_path, deadline, stage):
    rows, aim = climb(tmp_path, deadline)
    assert rows[-1]['stage'] == stage and rows[-1]['meets']
    assert not any(row['meets'] for row in rows[:-1])
    assert rows[-1]['p99_s'] * 1.1 < deadline and stage in advice(rows, aim)


def test_where_nothing_meets_the_deadline_the_advice_names_one_that_would(tmp_path):
    rows, aim = climb(tmp_path, 0.001)
    assert len(rows) == 7 and not any(row['meets'] for row in rows)
    assert 'Nothing meets 1 ms' in advice(rows, aim) and 'a deadline of 3 ms' in advice(rows, aim)
    assert '--data' in advice(rows, aim)
    every = [*rows, {**rows[-1], 'stage': 'distilled and quantized, 1 steps'}]
    assert '--data' not in advice(every, aim)  # it was made
    assert climb(tmp_path, 0.003)[0][-1]['meets']


def test_a_stack_that_is_too_poor_is_passed_by(tmp_path):
    def quality(stage):
        return 0.5 if stage.steps == 8 else 0.9

    rows, _ = climb(tmp_path, 0.012, quality)
    assert [row['meets_time'] for row in rows[-2:]] == [True, True]
    assert rows[-1]['steps'] == 4 and not rows[-2]['meets_quality']
    rows, aim = climb(tmp_path, 0.003, lambda stage: stage.steps / 16)
    assert '--quality-drop' in advice(rows, aim)


def test_an_error_may_rise_by_a_share(tmp_path):
    aim = Aim(0.02, quality_drop=0.05, higher_is_better=False)
    assert aim.meets_quality(1.04, 1.0) and not aim.meets_quality(1.06, 1.0)


def test_a_quantized_bundle_serves_the_steps_of_its_policy(exported):
    with pytest.raises(SpecError, match='not the 16 of pusht_teacher'):
        list(ladder('pusht_teacher', 0, [str(exported('keypoint_mlp', 'edm')[0].folder)], []))
    with pytest.raises(SpecError, match='not 5'):
        list(ladder('pusht', 5, [], []))


def test_without_caches_every_frame_is_encoded_anew():
    counts = []
    for cached in (True, False):
        loop = make_loop()
        plan_times(loop, 10, cached)
        counts.append(len(loop.engine.encoded))
    assert counts[0] == 15 and counts[1] == 29  # the first plan has one frame only


def test_a_run_is_taken_up_and_the_bundle_is_told_its_figures(tmp_path, capsys):
    args = ['tune', '--deadline', '10s', '--episodes', '1', '--workers', '1', '--repeats', '5',
            '--out', str(tmp_path / 'out'), '--json', str(tmp_path / 'result.json')]
    assert main([*args, '--steps', '1']) == 0
    first = json.loads((tmp_path / 'result.json').read_text())
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / 'out' / 'kept').iterdir()}
    assert main([*args, '--steps', '1']) == 0
    again = json.loads((tmp_path / 'result.json').read_text())
    assert again['ladder'] == first['ladder'] and first['chosen'] == 'as it is'
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / 'out' / 'kept').iterdir()} == kept
    bundle = read_bundle(first['bundle'])
    assert bundle.quality['tuned']['p99_s'] == first['ladder'][0]['p99_s']
    assert (tmp_path / 'out' / 'ladder.png').stat().st_size > 5000
    assert first['advice'] in (tmp_path / 'out' / 'ladder.md').read_text()


def test_a_deadline_that_cannot_be_met_ends_with_the_advice(tmp_path, capsys):
    code = main(['tune', '--deadline', '1us', '--episodes', '1', '--workers', '1', '--repeats',
                 '5', '--steps', '1', '--out', str(tmp_path), '--json', str(tmp_path / 'r.json')])
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert code == 1 and told.startswith('dprt tune: Nothing meets 0.001 ms')
    result = json.loads((tmp_path / 'r.json').read_text())
    assert result['chosen'] is None and result['bundle'] is None
    assert len(result['ladder']) == 2 and not Path(tmp_path / 'bundle').exists()


def test_the_quality_of_what_is_too_slow_is_measured_unless_it_is_skipped(tmp_path):
    seen = []

    def quality(stage):
        seen.append(stage.label)
        return 0.9

    for skip, count in ((False, 4), (True, 2)):
        seen.clear()
        rows = Timed(tmp_path, 'onnxruntime', 1, 20, quality, skip).climb(
            ladder('pusht_teacher', 0, ['pusht_teacher'], ['pusht']), Aim(0.012))
        assert rows[-1]['meets'] and len(rows) == 4 and len(seen) == count
        assert [row['quality'] is None for row in rows] == [False, skip, skip, False]
    assert seen == ['as it is', 'distilled (pusht), 8 steps']
    write_ladder(tmp_path, {'ladder': rows, 'deadline_s': 0.012, 'p99_most_s': 0.01,
                            'quality_is': 'score', 'episodes': None, 'advice': 'A.',
                            'provenance': {'command': 'dprt tune', 'git': 'c'}})
    assert (tmp_path / 'ladder.md').read_text().count('| - |') == 2
