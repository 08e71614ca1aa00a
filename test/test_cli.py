"""The commands' borders: JSON keys that scripts rely on, and one clear line on bad input."""

import json
import re
import shutil

import numpy as np
import pytest

from diffusion_policy_rt.cli.main import COMMANDS, main, make_parser
from diffusion_policy_rt.engines.bundle import SHIPPED, read_bundle
from diffusion_policy_rt.replay import modes

EVAL_KEYS = {'episodes', 'mean_max_coverage', 'success_rate', 'ci95', 'steps', 'engine', 'jerk',
             'per_episode'}
MODES_KEYS = {'states', 'candidates', 'modes', 'modes_kept', 'mode_coverage', 'both_kept',
              'minority_share', 'teacher_minority_share', 'straight_share', 'steps',
              'teacher_steps', 'per_state'}
BENCH_KEYS = {'what', 'engine', 'dtype', 'steps', 'threads', 'p50_s', 'p99_s', 'bytes',
              'peak_rss_bytes'}


def result(tmp_path, *argv):
    path = tmp_path / 'result.json'
    assert main([*argv, '--json', str(path)]) == 0
    return json.loads(path.read_text())


def test_every_command_explains_itself_and_takes_json():
    actions = make_parser()._subparsers._group_actions[0].choices
    assert tuple(actions) == COMMANDS
    for parser in actions.values():
        assert parser.description and '--json' in parser.format_help()


def test_eval_writes_its_keys(tmp_path):
    data = result(tmp_path, 'eval', '--policy', 'pusht', '--episodes', '2', '--steps', '1',
                  '--workers', '1', '--sheet', str(tmp_path / 'sheet.png'))
    assert set(data) >= EVAL_KEYS and data['steps'] == 1 and data['engine'] == 'onnxruntime'
    assert [e['seed'] for e in data['per_episode']] == [100_000, 100_001]
    mean = sum(e['max_coverage'] for e in data['per_episode']) / 2
    assert data['mean_max_coverage'] == pytest.approx(mean)
    assert (tmp_path / 'sheet.png').exists()


def test_eval_keeps_its_figures_in_the_bundle_when_asked(tmp_path):
    folder = tmp_path / 'copy'
    shutil.copytree(SHIPPED / 'pusht', folder)
    data = result(tmp_path, 'eval', '--policy', str(folder), '--episodes', '1', '--steps', '2',
                  '--workers', '1', '--record')
    kept = read_bundle(folder).quality['pusht, 2 steps, delay 0']
    assert kept['mean_max_coverage'] == data['mean_max_coverage'] and kept['seed'] == 100_000
    assert read_bundle(folder).files == read_bundle('pusht').files


def test_random_targets_are_evaluated_by_the_same_command(tmp_path):
    data = result(tmp_path, 'eval', '--policy', 'random', '--episodes', '3', '--workers', '1')
    assert data['mean_max_coverage'] < 0.6 and data['engine'] == 'none'


def test_another_sampler_is_told_with_its_levels_and_held_against_a_run(tmp_path):
    few = ('eval', '--policy', 'pusht', '--seed', '200000', '--episodes', '2', '--workers', '1')
    ours = result(tmp_path, *few, '--sampler', 'reduced-noise', '--steps', '3')
    assert ours['steps'] == 3 == len(ours['schedule']['sigmas'])
    assert ours['schedule']['noise_scale'] == 0.2
    (tmp_path / 'result.json').rename(tmp_path / 'ours.json')
    theirs = result(tmp_path, *few, '--steps', '1', '--against', str(tmp_path / 'ours.json'))
    gain = theirs['mean_max_coverage'] - ours['mean_max_coverage']
    assert theirs['against']['difference'] == pytest.approx(gain)


def test_modes_are_counted_over_states_by_seed(tmp_path, monkeypatch):
    monkeypatch.setattr(modes, 'SPLIT', 0.0)  # or few states would count
    monkeypatch.setattr(modes, 'STRAIGHT', 1.0)
    monkeypatch.setattr(modes, 'OFFSETS', np.zeros(1))
    data = result(tmp_path, 'eval', '--policy', 'pusht', '--steps', '1', '--modes', 'pusht',
                  '--seed', '200000', '--episodes', '2', '--workers', '1')
    assert set(data) >= MODES_KEYS and data['steps'] == 1 and data['candidates'] == 2
    assert data['modes'] == 2 * data['states'] == 4
    assert [s['seed'] for s in data['per_state']] == [200_000, 200_001]


def test_the_nearest_demonstration_is_evaluated_by_the_same_command(tmp_path):
    rows = 30
    np.savez(tmp_path / 'data.npz', keypoint=np.zeros((rows, 9, 2), np.float32),
             state=np.zeros((rows, 5), np.float32), action=np.full((rows, 2), 250, np.float32),
             episode_ends=np.array([rows]))
    data = result(tmp_path, 'eval', '--policy', 'nearest', '--data', str(tmp_path / 'data.npz'),
                  '--episodes', '2', '--workers', '1', '--seed', '200000')
    assert data['engine'] == 'none' and data['schedule'] is None and data['episodes'] == 2


def test_info_tells_spec_sizes_dtypes_steps_and_hashes(tmp_path):
    data = result(tmp_path, 'info', 'pusht')
    assert data['spec']['name'] == 'pusht' and data['steps'] == [1, 2, 4, 8]
    assert data['bytes'] == sum(f['bytes'] for f in data['files'].values())
    assert len(data['sha256']) == 64 and data['dtypes']
    assert set(data['executed']['caches']) == {'condition', 'blocks', 'tiles', 'notes'}


def test_bench_writes_one_row_per_part_engine_and_step_count(tmp_path):
    data = result(tmp_path, 'bench', '--engine', 'onnxruntime', '--steps', '1', '--steps', '4',
                  '--repeats', '3', '--plot', str(tmp_path / 'b.png'))
    assert (tmp_path / 'b.png').read_bytes().startswith(b'\x89PNG')
    assert [(r['what'], r['steps']) for r in data['rows']] == [
        ('denoiser', 1), ('encoder', None), ('plan', 1), ('plan', 4)]
    assert all(set(row) >= BENCH_KEYS and 0 < row['p50_s'] <= row['p99_s'] for row in data['rows'])


def test_bench_takes_every_size_that_is_named(tmp_path):
    pytest.importorskip('torch', reason='--size base builds networks')
    data = result(tmp_path, 'bench', '--what', 'denoiser', '--size', 'base', '--denoiser', 'dit',
                  '--params', '200K', '--params', '800K', '--horizon', '12', '--horizon', '16',
                  '--dtype', 'fp32', '--engine', 'onnxruntime', '--repeats', '2')
    rows = [(row['horizon'], row['bytes']) for row in data['rows']]
    assert [horizon for horizon, _ in rows] == [12, 12, 16, 16]
    assert rows[0][1] < rows[1][1] and rows[2][1] < rows[3][1]


def test_a_size_that_does_not_fit_is_refused_before_it_is_built(monkeypatch, tmp_path, capsys):
    pytest.importorskip('torch', reason='random weights need torch')
    from diffusion_policy_rt.train import base

    def built(*_, **__):
        raise AssertionError('it was built')

    monkeypatch.setattr(base, 'write_base', built)
    monkeypatch.setattr(base, 'available_memory', lambda: 5e9)
    asked = ['bench', '--what', 'denoiser', '--size', 'base', '--denoiser', 'transformer']
    assert main([*asked, '--params', '20B']) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.search(r'fp32, int8-dynamic take \d+\.\d GB of memory .* 5\.0 GB are left', last)
    with pytest.raises(AssertionError, match='it was built'):
        main([*asked, '--params', '1M'])


def test_bench_holds_the_fused_graph_against_single_calls(tmp_path):
    pytest.importorskip('onnx', reason='graphs are joined by onnx')
    rows = result(tmp_path, 'bench', '--what', 'fused', '--steps', '2', '--repeats', '2')['rows']
    assert [(row['what'], row['steps']) for row in rows] == [('fused', 2)]
    assert rows[0]['difference'] < 1e-4


BAD = {
    'a bundle that is none': (['info', '/nowhere'], 'is no bundle'),
    'training seeds': (['eval', '--seed', '3', '--episodes', '1'], 'demonstrations'),
    'a step count not served': (['eval', '--steps', '3', '--episodes', '1'], 'serves'),
    'a floor without its data': (['eval', '--policy', 'nearest', '--episodes', '1'], '--data'),
    'data that are none': (['eval', '--policy', 'nearest', '--data', '/nowhere'], '/nowhere'),
    'noise of no sampler': (['eval', '--noise-scale', '0.2'], 'belong to --sampler'),
    'a start that is no level': (['eval', '--sampler', 'ddim', '--start', '-1'], 'start -1.0'),
    'a run that is none': (['eval', '--against', '/nowhere/r.json', '--episodes', '1'],
                           'is no result'),
    'a record of another sampler': (['eval', '--sampler', 'ddim', '--record'], 'own schedule'),
    'modes of late actions': (['eval', '--modes', 'pusht', '--delay', '1'], 'do not apply'),
    'modes of a floor': (['eval', '--policy', 'random', '--modes', 'pusht'], 'draws no chunks'),
    'an unknown engine': (['eval', '--engine', 'abacus', '--episodes', '1'], "'abacus'"),
    'a cache where none is measured': (['bench', '--cache', 'latent'],
                                       '--cache does not apply here; it is for --what cache --ep'),
    'a level without episodes': (['bench', '--what', 'cache', '--level', '1'], '--level does not'),
    'sequences and episodes': (['bench', '--what', 'cache', '--sequences', '1', '--episodes', '1'],
                               '--episodes does not'),
    'a bundle and random weights': (['bench', '--size', 'base', '--policy', 'pusht'],
                                    '--policy does not'),
    'a picture of the node': (['bench', '--what', 'node', '--plot', 'b.png'], '--plot does not'),
    'a recipe that is none': (['train', '--data', '.', '--out', '/tmp/x', '--recipe', 'nope'],
                              'no recipe nope'),
    'a result that cannot be written': (['info', 'pusht', '--json', '/nowhere/r.json'],
                                        'cannot write'),
}


@pytest.mark.parametrize('case', BAD)
def test_bad_input_ends_with_one_line_and_exit_code_1(case, capsys):
    argv, reason = BAD[case]
    if argv[0] == 'train':
        pytest.importorskip('torch', reason='training needs torch')
    assert main(argv) == 1
    error = capsys.readouterr().err.strip()
    assert reason in error and '\n' not in error and error.startswith(f'dprt {argv[0]}: ')


@pytest.mark.parametrize('argv', [['eval', '--episodes', '0'], ['eval', '--seed', '-1'], ['fly']])
def test_arguments_out_of_range_are_refused_with_usage(argv, capsys):
    with pytest.raises(SystemExit) as end:
        main(argv)
    assert end.value.code == 2 and 'usage' in capsys.readouterr().err
