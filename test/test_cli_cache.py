"""`dprt cache` end to end: a schedule of blocks in the bundle, and what it costs."""

import json

import pytest

torch = pytest.importorskip('torch', reason='the search looks into torch networks')

from test_cli_distill import RECIPE, toy  # noqa: E402, F401

from diffusion_policy_rt.cli.main import main  # noqa: E402
from diffusion_policy_rt.engines.bundle import read_bundle  # noqa: E402


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


@pytest.mark.parametrize(('more', 'told'), [
    (['--steps', '1'], 'plans of 4 steps or more'), (['--steps', '5'], 'steps'),
    (['--steps', '4', '--budget', '9'], 'give 1 to 4')])
def test_what_cannot_be_is_refused_and_nothing_is_written(toy, tmp_path, capsys,  # noqa: F811
                                                          more, told):
    assert cache(toy, tmp_path / 'made', *more) == 1
    assert told in capsys.readouterr().err and not list(tmp_path.iterdir())
