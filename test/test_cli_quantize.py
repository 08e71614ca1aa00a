"""`dprt quantize` end to end: a bundle only through the gate, and what it says of itself."""

import json

import pytest
import yaml

torch = pytest.importorskip('torch', reason='quantizing starts from torch modules')

from test_cli_distill import RECIPE, toy  # noqa: E402, F401
from test_quantize import export_like_modelopt  # noqa: E402

from diffusion_policy_rt.cli import quantize as quantizing  # noqa: E402
from diffusion_policy_rt.cli.main import main  # noqa: E402
from diffusion_policy_rt.engines.bundle import WEIGHTS, read_bundle  # noqa: E402
from diffusion_policy_rt.engines.load import load_engine  # noqa: E402
from diffusion_policy_rt.engines.parity import deviation  # noqa: E402
from diffusion_policy_rt.engines.torch_engine import load_policy  # noqa: E402
from diffusion_policy_rt.engines.weights import read_header  # noqa: E402
from diffusion_policy_rt.errors import DprtError  # noqa: E402
from diffusion_policy_rt.train.export import export_bundle  # noqa: E402
from diffusion_policy_rt.train.quantize.gate import LIMITS  # noqa: E402


def quantize(toy, out, *more, policy=None):  # noqa: F811
    return main(['quantize', '--policy', str(policy or toy[1]), '--data', str(toy[0]), '--out',
                 str(out), '--observations', '8', '--json', str(out) + '.json', *more])


@pytest.fixture(scope='module')
def done(toy, tmp_path_factory):  # noqa: F811
    """Return a quantized bundle and the command's result."""
    out = tmp_path_factory.mktemp('quantized') / 'q8'
    # a network of a few kB is mostly graph, which quantizing does not shrink
    assert quantize(toy, out, '--episodes', '0', '--override') == 0
    return read_bundle(out), json.loads(out.with_name('q8.json').read_text())


def test_the_bundle_holds_its_report_and_runs_in_8_bits(done):
    bundle, result = done
    report = bundle.quality['quantization']
    assert {*LIMITS} - {'score_loss'} <= set(report) and report['sign_flips'] < 0.2
    assert report['chunk_rmse'] == result['chunk_rmse'] < 0.05
    engine = load_engine(bundle, 'onnxruntime')
    for part, kept in report['layers_in_fp32'].items():
        ran = {layer.name: layer.dtype for layer in engine.executed[part]}
        assert [name for name, dtype in ran.items() if dtype == 'float32'] == sorted(
            kept, key=list(ran).index)
    assert bundle.spec == read_bundle(bundle.folder).spec


def test_overriding_the_gate_is_recorded_in_the_bundle(done):
    report = done[0].quality['quantization']
    assert report['overridden'] and any('score_loss not measured' in f for f in report['failed'])


def test_the_result_tells_what_was_tried_and_every_layer_s_sensitivity(done):
    _, result = done
    assert {row['form'].split()[0] for row in result['trials']['denoiser']} == {
        'fp32', 'int8-dynamic', 'int8-weight-only', 'int8-static'}
    assert set(result['sensitivity']) == {'encoder_front', 'denoiser'}
    assert 'outputs.1' in result['sensitivity']['denoiser']
    assert all(row['executed'] == 'int8' for row in result['trials']['denoiser'][1:])


def test_where_the_bundle_came_from_is_told(done, toy):  # noqa: F811
    provenance = done[0].provenance
    assert provenance['source'] == read_bundle(toy[1]).digest
    assert provenance['calibration'] == {'data': ['data'], 'observations': 8, 'seed': 0}


def test_a_policy_that_fails_the_gate_is_not_written(toy, tmp_path, capsys):  # noqa: F811
    assert quantize(toy, tmp_path / 'q', '--episodes', '0') == 1
    assert 'the gate fails: ' in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_wanted_form_is_taken_and_fp32_stays_fp32(toy, tmp_path):  # noqa: F811
    out = tmp_path / 'q'
    assert quantize(toy, out, '--episodes', '0', '--override', '--encoder', 'fp32',
                    '--denoiser', 'weight-only') == 0
    bundle = read_bundle(out)
    assert bundle.dtypes == {'encoder_front': 'fp32', 'denoiser': 'int8-weight-only'}
    assert load_engine(bundle, 'onnxruntime').dtypes['encoder_front'] == 'float32'


def test_a_quantized_bundle_is_not_quantized_again(done, toy, tmp_path, capsys):  # noqa: F811
    assert quantize(toy, tmp_path / 'q', policy=done[0].folder) == 1
    assert 'is quantized already' in capsys.readouterr().err


def test_a_task_without_a_simulator_has_no_score_and_passes_without(
        toy, tmp_path, capsys):  # noqa: F811
    wrong_rate = {'name': 'toy2', **{k: v for k, v in RECIPE.items() if k != 'name'}, 'rate': 5.0}
    (tmp_path / 'recipe.yaml').write_text(yaml.safe_dump(wrong_rate))
    assert main(['train', '--data', str(toy[0]), '--recipe', str(tmp_path / 'recipe.yaml'),
                 '--out', str(tmp_path / 'run'), '--threads', '1']) == 0
    assert quantize(toy, tmp_path / 'q', '--override', '--episodes', '2',
                    policy=tmp_path / 'run/bundle') == 0
    report = read_bundle(tmp_path / 'q').quality['quantization']
    assert report['score_loss'] is None
    assert not any('score_loss' in line for line in report['failed'])


def test_both_policies_play_the_same_episodes(toy, tmp_path):  # noqa: F811
    pytest.importorskip('gym_pusht', reason='the closed loop needs gym-pusht')
    assert quantize(toy, tmp_path / 'q', '--override', '--episodes', '2', '--workers', '1',
                    '--steps', '1') == 0
    report = read_bundle(tmp_path / 'q').quality['quantization']
    assert report['episodes'] == 2 and report['score_loss'] == pytest.approx(
        report['score_fp32'] - report['score'])


def test_too_few_observations_are_told_before_the_work(
        toy, tmp_path, monkeypatch, capsys):  # noqa: F811
    from diffusion_policy_rt.train.quantize import run

    monkeypatch.setattr(run, 'reexport', lambda *_, **__: pytest.fail('it was written'))
    assert quantize(toy, tmp_path / 'q8', '--observations', '100000') == 1
    assert 'ask for fewer by --observations' in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('interval, more', [((-0.03, 0.01), True), ((-0.05, -0.002), False)])
def test_a_score_that_may_be_the_same_asks_for_more_episodes(interval, more):
    report = {'chunk_rmse': 0.0, 'jerk_ratio': 1.0, 'size_ratio': 0.2, 'score_loss': 0.02,
              'score': 0.88, 'score_fp32': 0.9, 'score_difference_ci95': interval, 'episodes': 9}
    with pytest.raises(DprtError, match='the gate fails: score_loss 0.02') as told:
        quantizing.judge(report, override=False)
    assert ('--episodes' in str(told.value)) == more


def test_info_shows_every_layer_as_it_was_executed(done, tmp_path, capsys):
    bundle, _ = done
    assert main(['info', str(bundle.folder), '--json', str(tmp_path / 'i.json')]) == 0
    executed = json.loads((tmp_path / 'i.json').read_text())['executed']
    assert executed['engine'] == 'onnxruntime'
    shown = {row['layer']: row['dtype'] for row in executed['layers']['denoiser']}
    assert shown['cond.2'] == 'int8'
    assert 0 < executed['deviation'] <= executed['tolerance']
    assert 'cond.2' in capsys.readouterr().out


def test_the_form_of_tensorrt_is_written_with_its_report(toy, tmp_path, monkeypatch,  # noqa: F811
                                                         capsys):
    pytest.importorskip('modelopt.torch.quantization', reason='modelopt is not installed')
    monkeypatch.setattr(quantizing, 'gpu', lambda: False)
    assert quantize(toy, tmp_path / 'q', '--engine', 'tensorrt', '--override') == 0
    bundle = read_bundle(tmp_path / 'q')
    assert set(bundle.dtypes.values()) == {'int8-qdq'}
    report = bundle.quality['quantization']
    assert report['overridden'] and 0 < report['chunk_rmse'] < 0.2
    assert 'outputs.1' in report['layers_in_fp32']['denoiser']
    assert 'no closed loop: TensorRT needs a GPU' in capsys.readouterr().out


def test_a_checkpoint_of_modelopt_takes_the_place_of_the_weights(toy, tmp_path):  # noqa: F811
    policy = load_policy(read_bundle(toy[1]))
    with torch.no_grad():
        policy.denoiser.outputs[1].bias += 1.0
    folder = export_like_modelopt(policy, tmp_path / 'checkpoint')
    assert quantize(toy, tmp_path / 'q', '--checkpoint', str(folder), '--episodes', '0',
                    '--override') == 0
    made = load_policy(read_bundle(tmp_path / 'q'))
    torch.testing.assert_close(made.denoiser.outputs[1].bias, policy.denoiser.outputs[1].bias)


def test_an_old_bundle_is_exported_anew_in_its_place(toy, tmp_path, capsys):  # noqa: F811
    policy = load_policy(read_bundle(toy[1]))
    export_bundle(policy, read_bundle(toy[1]).model, tmp_path / 'old',
                  {'quality': {'score': 1}}, products=False)
    assert main(['export', '--policy', str(tmp_path / 'old'), '--out', str(tmp_path / 'old')]) == 0
    made = read_bundle(tmp_path / 'old')
    assert made.quality == {'score': 1} and read_header(made.path(WEIGHTS))[1] == {
        'layout': 'products'}
    assert deviation(made, load_engine(made, 'onnxruntime'))[0] < 1e-4
    weights = load_policy(made).state_dict()
    assert all(torch.equal(weights[n], t) for n, t in policy.state_dict().items())


def test_a_quantized_bundle_is_not_exported(done, tmp_path, capsys):
    assert main(['export', '--policy', str(done[0].folder), '--out', str(tmp_path / 'q')]) == 1
    assert 'is quantized already' in capsys.readouterr().err and not list(tmp_path.iterdir())
