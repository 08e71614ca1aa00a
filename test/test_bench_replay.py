"""`dprt bench --what replay`: a replay against the loop within it, from the same run."""

import json

import pytest
from test_cli_replay import pusht  # noqa: F401  (a fixture)

from diffusion_policy_rt.cli.main import main

pytest.importorskip('onnxruntime', reason='the shipped policy runs on ONNX Runtime')


def test_the_loop_is_a_part_of_its_replay(pusht, tmp_path):  # noqa: F811
    out = tmp_path / 'rows.json'
    assert main(['bench', '--what', 'replay', '--bag', str(pusht), '--repeats', '1',
                 '--json', str(out)]) == 0
    row, = json.loads(out.read_text())['rows']
    assert row['ticks'] > 10 and row['steps'] == 1
    assert 0 < row['loop_s'] < row['replay_s'] and row['ratio'] > 1 and row['times_real'] > 0
    assert row['ratio'] == pytest.approx(row['replay_s'] / row['loop_s'])


def test_without_a_bag_it_tells_where_to_get_one(capsys):
    assert main(['bench', '--what', 'replay']) != 0
    assert '--bag BAG' in capsys.readouterr().err
