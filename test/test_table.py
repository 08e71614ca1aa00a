"""`dprt table`: rows from YAML, results that are kept, failures that cost no other row."""

import json
import shutil

import numpy as np
import pytest
import yaml

from diffusion_policy_rt.cli.main import main
from diffusion_policy_rt.engines.bundle import (
    SHIPPED, WEIGHTS, read_bundle, record_quality, write_bundle)
from diffusion_policy_rt.errors import DataError, SpecError
from diffusion_policy_rt.replay import evaluate, modes, tabulate
from diffusion_policy_rt.engines.timing import WARMUP, take_turns
from diffusion_policy_rt.replay.evaluate import Evaluation
from diffusion_policy_rt.replay.kept import Kept, identity
from diffusion_policy_rt.replay.rows import load_table
from diffusion_policy_rt.runtime.variants import Variant

TEACHER = {'label': 'teacher', 'policy': 'pusht', 'steps': 100, 'sampler': 'ddim'}
ROWS = [TEACHER, {'label': 'DDIM', 'policy': 'pusht', 'steps': [1, 2]},
        {'label': 'warm', 'policy': 'pusht', 'steps': 2, 'sampler': 'warm-start'},
        {'label': 'floor', 'policy': 'random'}]
ROW_KEYS = {'label', 'policy', 'steps', 'sampler', 'mean_max_coverage', 'ci95', 'success_rate',
            'success_ci95', 'difference', 'difference_ci95', 'mode_coverage', 'modes_kept',
            'modes', 'jerk', 'network_calls', 'plan_s', 'speedup', 'hours', 'teacher_hours',
            'sha256', 'per_episode'}


def write(folder, rows=ROWS, **more):
    path = folder / 'rows.yaml'
    path.write_text(yaml.safe_dump({'reference': 'teacher', 'rows': rows, 'title': 'T'} | more))
    return path


@pytest.fixture
def played(monkeypatch):
    """Replace episodes by what their seed gives, and count them; every crossroads splits."""
    seen = []

    def play(controller, robot, seed, *_):
        seen.append(seed)
        wanted = getattr(controller, 'loop', None)
        score = 0.9 if wanted else 0.1
        return evaluate.Episode(seed, [score * (1 + seed % 3 / 30)], [np.zeros(2)] * 5)

    monkeypatch.setattr(evaluate, 'run_episode', play)
    monkeypatch.setattr(modes, 'way_shares', lambda *_: np.array([0.5, 0.5]))
    monkeypatch.setattr(modes, 'watershed', lambda *_: 0.0)
    return seen


def table(folder, rows, *more, code=0, episodes=3):
    assert main(['table', '--rows', str(rows), '--out', str(folder / 'out'), '--episodes',
                 str(episodes), '--seed', '200000', '--modes', '2', '--repeats', '2', '--workers',
                 '1', '--json', str(folder / 'r.json'), *more]) == code
    return json.loads((folder / 'r.json').read_text())


def test_every_row_has_every_figure(tmp_path, played):
    result = table(tmp_path, write(tmp_path))
    rows = {(r['label'], r['steps']): r for r in result['rows']}
    assert list(rows) == [('teacher', 100), ('DDIM', 1), ('DDIM', 2), ('warm', 2), ('floor', 0)]
    assert all(set(row) >= ROW_KEYS for row in rows.values())
    assert [r['network_calls'] for r in result['rows']] == [100, 1, 2, 2, None]
    assert rows['teacher', 100]['difference'] == 0 and rows['teacher', 100]['speedup'] == 1
    gap = rows['floor', 0]['mean_max_coverage'] - rows['teacher', 100]['mean_max_coverage']
    assert rows['floor', 0]['difference'] == pytest.approx(gap) and gap < 0
    assert [r['modes'] for r in result['rows']] == [4, 4, 4, None, None]
    assert rows['floor', 0]['plan_s'] is rows['floor', 0]['hours'] is None
    assert rows['DDIM', 1]['hours'] == pytest.approx(read_bundle('pusht').training['hours'])


def test_the_page_has_a_line_per_row_and_its_picture(tmp_path, played):
    page = tmp_path / 'docs/page.md'
    result = table(tmp_path, write(tmp_path, text='Prose.'), '--page', str(page))
    lines = page.read_text().splitlines()
    assert lines[0] == '# T' and 'Prose.' in lines and '![score against time per plan](page.png)' \
        in lines
    assert [line.split(' | ')[0] for line in lines if line.startswith('| ')][2:] == [
        f'| {row["label"]}' for row in result['rows']]
    assert len({line.count(' | ') for line in lines if line.startswith('| ')}) == 1
    assert page.with_suffix('.png').stat().st_size > 1000
    assert result['page'] == str(page)


def test_a_run_that_was_killed_goes_on_and_gives_the_same(tmp_path, played, monkeypatch):
    rows, real = write(tmp_path), tabulate.outcome
    whole = table(tmp_path, rows)
    assert len(played) == 3 * len(whole['rows'])
    shutil.rmtree(tmp_path / 'out')
    played.clear()

    def killed(episode):
        if len(played) == 5:
            raise KeyboardInterrupt
        return real(episode)

    monkeypatch.setattr(tabulate, 'outcome', killed)
    assert main(['table', '--rows', str(rows), '--out', str(tmp_path / 'out'), '--episodes', '3',
                 '--seed', '200000', '--modes', '2', '--workers', '1']) == 130
    monkeypatch.setattr(tabulate, 'outcome', real)
    resumed = table(tmp_path, rows)
    assert len(played) == 3 * len(whole['rows']) + 1, 'only the one cut short is run again'
    for one, other in zip(whole['rows'], resumed['rows']):
        assert {k: v for k, v in one.items() if k not in ('plan_s', 'speedup')} == {
            k: v for k, v in other.items() if k not in ('plan_s', 'speedup')}
    assert not list((tmp_path / 'out').rglob('*.partial'))


def test_more_episodes_run_only_those_that_lack(tmp_path, played):
    rows = write(tmp_path, [TEACHER])
    table(tmp_path, rows)
    assert table(tmp_path, rows, episodes=5)['rows'][0]['episodes'] == 5
    assert played == [200_000, 200_001, 200_002, 200_003, 200_004]
    assert table(tmp_path, rows, episodes=2)['rows'][0]['episodes'] == 2 and len(played) == 5


def copy(folder, change):
    """Return a copy of the shipped bundle; `change` alters its policy.json and its files."""
    bundle = read_bundle('pusht')
    data = json.loads((bundle.folder / 'policy.json').read_text())
    keys = ('spec', 'model', 'training', 'quality', 'dtypes', 'provenance')
    manifest = {key: data[key] for key in keys}

    def fill(partial):
        for name in bundle.files:
            shutil.copy(bundle.path(name), partial / name)
        change(manifest, partial)

    return write_bundle(folder, manifest, fill)


def test_a_bundle_that_changed_is_evaluated_anew_one_that_was_measured_is_not(tmp_path, played):
    bundle = copy(tmp_path / 'b', lambda manifest, partial: None)
    rows = write(tmp_path, [{**TEACHER, 'policy': str(bundle.folder)}])
    table(tmp_path, rows)
    record_quality(bundle, {'score': 1})
    table(tmp_path, rows)
    assert len(played) == 3

    def retrain(manifest, partial):
        with (partial / WEIGHTS).open('ab') as file:
            file.write(b' ')

    copy(tmp_path / 'b', retrain)
    table(tmp_path, rows)
    assert len(played) == 6


@pytest.mark.parametrize('change', [
    {'steps': 2}, {'delay': 1}, {'execute': 4}, {'noise_seed': 1}, {'policy': 'random'},
    {'variant': Variant('warm-start')}, {'variant': Variant('ddim', 3.0)}])
def test_whatever_an_episode_depends_on_is_in_its_key(change):
    keys = [identity(Evaluation(**{'policy': 'pusht', 'steps': 1} | more), 'onnxruntime')
            for more in ({}, change)]
    assert keys[0] != keys[1]
    assert identity(Evaluation('pusht', 1), 'torch') != keys[0]
    assert identity(Evaluation('pusht', 1), 'onnxruntime') == keys[0]


def test_a_row_that_cannot_be_measured_costs_no_other(tmp_path, played, capsys):
    bad = [{'label': 'absent', 'policy': 'runs/absent', 'steps': 1, 'make': 'dprt distill --x'},
           {'label': 'odd', 'policy': 'pusht', 'steps': 3}, {'label': 'no data',
                                                             'policy': 'nearest'}]
    result = table(tmp_path, write(tmp_path, [ROWS[0], *bad, ROWS[-1]]), code=1)
    assert [row['label'] for row in result['rows']] == ['teacher', 'floor']
    reasons = {f['row']: f['error'] for f in result['failed']}
    assert reasons['absent, steps 1'].endswith('; make it by: dprt distill --x')
    assert 'serves' in reasons['odd, steps 3'] and '--data' in reasons['no data']
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith('dprt table: 3 rows were not measured')
    assert 'Not measured: absent' in (tmp_path / 'out/table.md').read_text()


def test_an_engine_that_fails_in_an_episode_costs_its_row_only(tmp_path, played, monkeypatch):
    real = evaluate.run_episode

    def fails(controller, robot, seed, *more):
        if getattr(getattr(controller, 'loop', None), 'settings', None) is not None \
                and controller.loop.settings.max_steps == 2:
            raise RuntimeError('out of order')
        return real(controller, robot, seed, *more)

    monkeypatch.setattr(evaluate, 'run_episode', fails)
    result = table(tmp_path, write(tmp_path), code=1)
    assert [f['error'] for f in result['failed']] == 2 * ['RuntimeError: out of order']
    assert len(result['rows']) == 3


def test_without_its_reference_there_is_no_table(tmp_path, capsys):
    rows = write(tmp_path, [{**TEACHER, 'policy': 'runs/absent', 'make': 'dprt train'}, ROWS[-1]])
    assert main(['table', '--rows', str(rows), '--out', str(tmp_path / 'out')]) == 1
    error = capsys.readouterr().err.strip()
    assert error.endswith('make it by: dprt train') and '\n' not in error


@pytest.mark.parametrize('rows, more, reason', [
    ([], {}, 'must be a list'), ([TEACHER, TEACHER], {}, 'stands twice'),
    ([{**TEACHER, 'speps': 1}], {}, "'speps'"), ([{'label': 'teacher'}], {}, "'policy'"),
    ([TEACHER], {'reference': 'nobody'}, "'nobody'"), ([TEACHER], {'colour': 1}, "'colour'"),
    ([{**TEACHER, 'steps': [1, 2]}], {}, 'one step count'),
    ([{**TEACHER, 'policy': 'random'}], {}, 'label of one bundle'),
    ([{'label': 'teacher', 'policy': 'pusht', 'start': 1.0}], {}, 'belong to a sampler')])
def test_rows_that_contradict_themselves_are_refused(tmp_path, rows, more, reason):
    with pytest.raises((DataError, SpecError), match=reason):
        load_table(write(tmp_path, rows, **more))


def test_the_shipped_rows_are_sound():
    shipped = load_table('distillation')
    assert shipped.reference.steps == 100 and len(shipped.rows) > 20
    for row in shipped.rows:
        there = row.floor or (SHIPPED / row.policy).is_dir() or row.policy == 'pusht_teacher'
        assert there or row.make.endswith(f'--out {row.policy.removesuffix("/bundle")}')
        row.evaluation('auto')


def test_calls_take_turns_and_warm_up_first():
    order = []
    times = take_turns([lambda: order.append('a'), lambda: order.append('b')], 3)
    assert order == ['a', 'b'] * (3 + WARMUP) and [len(t) for t in times] == [3, 3]


def test_a_damaged_result_says_what_to_remove(tmp_path):
    kept = Kept(tmp_path)
    kept.write('episodes', {'a': 1}, [1, 2])
    assert kept.read('episodes', {'a': 1}) == [1, 2] and kept.read('episodes', {'a': 2}) is None
    kept.path('episodes', {'a': 1}).write_text('{"result"')
    with pytest.raises(DataError, match='is damaged; remove it'):
        kept.read('episodes', {'a': 1})
