"""`dprt cache` end to end: a schedule of blocks in the bundle, and what it costs."""

import json

import pytest

torch = pytest.importorskip('torch', reason='the search looks into torch networks')

from test_cli_distill import RECIPE, toy  # noqa: E402, F401
from test_quantize import export_like_modelopt  # noqa: E402

from diffusion_policy_rt.cli.main import main  # noqa: E402
from diffusion_policy_rt.engines.bundle import read_bundle  # noqa: E402
from diffusion_policy_rt.engines.torch_engine import load_policy  # noqa: E402


def cache(toy, out, *more):  # noqa: F811
    return main(['cache', '--policy', str(toy[1]), '--data', str(toy[0]), '--out', str(out),
                 '--observations', '3', '--json', str(out) + '.json', *more])


def test_the_bundle_holds_the_schedule_and_its_cost(toy, tmp_path):  # noqa: F811
    out = tmp_path / 'made'
    assert cache(toy, out, '--steps', '4', '--budget', '2') == 0
    bundle, result = read_bundle(out), json.loads(out.with_name('made.json').read_text())
    fresh = bundle.blocks['4']['fresh']
    assert result['fresh'] == fresh and len(fresh) == 4
    assert [''.join(call[i] for call in fresh).count('1') for i in range(len(fresh[0]))] == (
        [2] * len(fresh[0]))
    told = bundle.quality['blocks, 4 steps']
    assert told['saving'] == result['saving'] == 2.0 and 0 <= told['chunk_rmse'] < 0.5
    assert {f'denoiser_step_{call}.onnx' for call in fresh} <= set(bundle.files)


def test_a_schedule_within_a_bound_of_jerk_is_found_and_said(toy, tmp_path):  # noqa: F811
    out = tmp_path / 'made'
    assert cache(toy, out, '--steps', '4', '--jerk', '3') == 0
    bundle, result = read_bundle(out), json.loads(out.with_name('made.json').read_text())
    assert bundle.blocks['4']['fresh'] == result['fresh'] and result['saving'] > 1
    assert set(result['fresh'][0]) == {'1'}


def test_the_schedule_stays_with_the_weights_and_its_cost_is_measured_again(
        toy, tmp_path, capsys):  # noqa: F811
    assert cache(toy, tmp_path / 'made', '--steps', '4', '--budget', '2') == 0
    made = read_bundle(tmp_path / 'made')
    assert main(['export', '--policy', str(made.folder), '--out', str(tmp_path / 'again')]) == 0
    again = read_bundle(tmp_path / 'again')
    assert again.blocks == made.blocks and again.quality == made.quality
    assert main(['quantize', '--policy', str(made.folder), '--data', str(toy[0]), '--out',
                 str(tmp_path / 'q'), '--observations', '4', '--episodes', '0', '--override',
                 '--encoder', 'fp32', '--denoiser', 'dynamic', '--json', str(tmp_path / 'j')]) == 0
    small, result = read_bundle(tmp_path / 'q'), json.loads((tmp_path / 'j').read_text())
    assert small.blocks == made.blocks
    cost = small.quality['blocks, 4 steps']
    assert result['blocks'] == {'blocks, 4 steps': cost} and cost['saving'] == 2.0
    assert cost['chunk_rmse'] != made.quality['blocks, 4 steps']['chunk_rmse']
    assert 'without the schedule' not in capsys.readouterr().out
    folder = export_like_modelopt(load_policy(made), tmp_path / 'checkpoint')
    assert main(['export', '--policy', str(made.folder), '--out', str(tmp_path / 'other'),
                 '--checkpoint', str(folder)]) == 0
    assert 'without the schedule of blocks of 4 steps' in capsys.readouterr().out
    assert not read_bundle(tmp_path / 'other').blocks


@pytest.mark.parametrize(('more', 'told'), [
    (['--steps', '1'], 'plans of 4 steps or more'), (['--steps', '5'], 'steps'),
    (['--steps', '4', '--budget', '9'], 'give 1 to 4'),
    (['--steps', '4', '--jerk', '0.9'], 'ratio of 1 or more'),
    (['--steps', '4', '--jerk', '1.1', '--budget', '2'], 'without --budget')])
def test_what_cannot_be_is_refused_and_nothing_is_written(toy, tmp_path, capsys,  # noqa: F811
                                                          more, told):
    assert cache(toy, tmp_path / 'made', *more) == 1
    assert told in capsys.readouterr().err and not list(tmp_path.iterdir())
