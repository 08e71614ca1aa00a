"""`dprt replay`: the result, the page and the output bag say the same as the trace."""

import json
import re
import sqlite3
import xml.etree.ElementTree as ET
from pathlib import Path

import bags
import numpy as np
import pytest
from fakes import START, STEP

from diffusion_policy_rt.cli.main import main
from diffusion_policy_rt.ros.bag import TYPES, Bag, BagWriter, qos, read_bag
from diffusion_policy_rt.runtime.trace import FIELDS

pytest.importorskip('onnxruntime', reason='the shipped policy runs on ONNX Runtime')
KEYS = {'ticks', 'missed', 'rungs', 'action_rmse', 'jerk_ratio', 'seam_jump_ratio', 'latency_s',
        'cache', 'sha256', 'report'}


@pytest.fixture(scope='module')
def pusht(tmp_path_factory):
    """Return a bag for the shipped policy: 2 s of a tool that moves over a grey board."""
    found = []
    for k in range(20):
        stamp = START + k * STEP
        position = np.array([250 + 3 * k, 270 - 2 * k], float)
        image = bags.image(TYPES, stamp, shape=(96, 96))
        act = bags.action(TYPES, stamp)
        act.joint_names, act.points[0].positions = ['x', 'y'], position + 5
        found += [(bags.FRONT, bags.IMAGE, stamp, image),
                  (bags.STATE, bags.JOINTS, stamp, bags.joints(TYPES, stamp, 'xy', position)),
                  (bags.ACTION, bags.TRAJECTORY, stamp + 1, act)]
    return bags.write(tmp_path_factory.mktemp('bags') / 'pusht', found)


def replay(bag, out, *more):
    code = main(['replay', str(bag), '--out', str(out), '--json', str(out) + '.json', *more])
    assert code == 0
    return json.loads(Path(str(out) + '.json').read_text())


def test_the_result_has_its_keys_and_repeats_itself(pusht, tmp_path, capsys):
    results = [replay(pusht, tmp_path / name, '--no-bag', '--latency', '12ms,p99=30ms')
               for name in 'ab']
    assert set(results[0]) >= KEYS and results[0]['ticks'] == sum(results[0]['rungs'].values())
    assert results[0]['sha256'] == results[1]['sha256']
    traces = [(tmp_path / name / 'trace.jsonl').read_text() for name in 'ab']
    assert traces[0] == traces[1]
    assert set(json.loads(traces[0].splitlines()[0])) > set(FIELDS)
    told = capsys.readouterr().out
    assert results[0]['sha256'][:16] in told and 'x: off by' in told


def test_a_measured_latency_can_be_given_again(pusht, tmp_path):
    options = ['--no-bag', '--steps', '1', '--latency']
    first = replay(pusht, tmp_path / 'a', *options, 'measured')
    again = replay(pusht, tmp_path / 'b', *options, first['latency'])
    assert again['sha256'] == first['sha256'] and again['latency_s'] == first['latency_s']


def test_several_policies_are_one_command_and_one_page(pusht, tmp_path):
    result = replay(pusht, tmp_path / 'out', '--no-bag', '--policy', 'pusht', '--policy', 'pusht',
                    '--steps', '2')
    assert [row['label'] for row in result['policies']] == ['pusht', 'pusht_1']
    assert len({row['sha256'] for row in result['policies']}) == 1
    assert (tmp_path / 'out' / 'trace_pusht_1.jsonl').is_file()
    page = (tmp_path / 'out' / 'report' / 'index.html').read_text()
    assert page.count('<h2>') == 2


def test_the_page_needs_nothing_else_and_shows_the_figures(pusht, tmp_path):
    result = replay(pusht, tmp_path / 'out', '--no-bag', '--latency', '100ms')
    page = (Path(result['report']) / 'index.html').read_text()
    for outside in ('http://', 'https://', '<script', '<link', '@import', 'url('):
        assert outside not in page
    assert f'{result["action_rmse"]:.4g}' in page and result['sha256'] in page
    assert f'{result["late_plans"]} of {result["plans"]} plans missed the deadline' in page
    drawings = [part.split('</svg>')[0] + '</svg>' for part in page.split('<svg')[1:]]
    assert len(drawings) == 5  # ticks, two actions, the histogram, one camera
    for drawing in drawings:
        root = ET.fromstring('<svg' + drawing)
        assert not re.search(r'[" LM]nan', drawing) and len(list(root)) > 2


def test_the_output_bag_holds_what_the_trace_says(pusht, tmp_path):
    pytest.importorskip('rclpy', reason='messages are made by the node\'s code')
    result = replay(pusht, tmp_path / 'out', '--latency', '12ms')
    lines = [json.loads(line) for line in Path(result['trace']).read_text().splitlines()]
    acted = [line for line in lines if line['action'] is not None]
    sent = list(read_bag(Path(result['bag']), '/policy/action'))
    assert [m.stamp_ns for m in sent] == [line['published_ns'] for line in acted]
    for message, line in zip(sent, acted):
        np.testing.assert_array_equal(message.data.points[0].positions, line['action'])
        assert len(message.data.points) == line['points']
    ticks = list(read_bag(Path(result['bag']), '/policy/timing'))
    assert [int(m.data.data[0]) for m in ticks] == [line['tick'] for line in lines]
    told = [json.loads(m.data.data) for m in read_bag(Path(result['bag']), '/policy/events')]
    seen = {event['at_ns']: event['newest'] for event in told if event['kind'] == 'plan'}
    assert list(seen) == [line['due_ns'] for line in lines if line['asked']]
    fresh = [line for line in lines if line['rung'] == 'fresh']
    assert fresh and all(seen[line['due_ns']]['front'] == line['observed_ns'] for line in fresh)
    again = replay(pusht, tmp_path / 'again', '--no-bag', '--latency', result['bag'])
    assert again['latency_s']['p50'] == pytest.approx(0.012)


def test_what_is_kept_is_told_and_what_is_asked_for_in_vain(pusht, tmp_path, capsys):
    result = replay(pusht, tmp_path / 'out', '--no-bag', '--steps', '1',
                    '--set', 'cache.blocks=true')
    assert any('no schedule' in note and 'dprt cache' in note for note in result['notes'])
    assert 'dprt cache' in capsys.readouterr().out
    assert result['kept']['condition.hits'] >= 0 and result['kept']['blocks.hit_ratio'] is None


@pytest.mark.parametrize('more, why', [
    (['--latency', 'soon'], 'no duration'), (['--fault', 'melt=1'], 'drop'),
    (['--map', 'camera.front=/no'], 'no such topic'), (['--set', 'deadline'], 'NAME=VALUE'),
    (['--set', 'cache.blocks=1'], 'true or false'), (['--set', 'deadline=true'], 'is a number'),
    (['--set', 'speed=1'], 'the settings are'), (['--deadline', '3'], 'control period'),
    (['--steps', '3'], 'serves'), (['--policy', '/nowhere'], 'no bundle')])
def test_bad_input_is_one_line_and_leaves_nothing(pusht, tmp_path, capsys, more, why):
    assert main(['replay', str(pusht), '--out', str(tmp_path / 'out'), '--no-bag', *more]) == 1
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert told.startswith('dprt replay: ') and why in told
    assert not (tmp_path / 'out').exists()


def test_a_bag_with_zero_messages_is_refused(tmp_path, capsys):
    with BagWriter(tmp_path / 'bag') as bag:
        bag.add_topic('/camera/front/image_raw', bags.IMAGE, qos(reliable=False))
    assert main(['replay', str(tmp_path / 'bag'), '--out', str(tmp_path / 'out')]) == 1
    assert 'holds no messages' in capsys.readouterr().err


def test_an_output_folder_that_is_not_empty_is_kept(pusht, tmp_path, capsys):
    (tmp_path / 'mine').write_text('mine')
    assert main(['replay', str(pusht), '--out', str(tmp_path)]) == 1
    assert 'is not empty' in capsys.readouterr().err and len(list(tmp_path.iterdir())) == 1


def test_types_of_before_2020_are_read(tmp_path):
    path = bags.write(tmp_path / 'bag', bags.messages(3), 'sqlite3')
    file = next(path.glob('*.db3'))
    with sqlite3.connect(file) as database:
        database.execute("UPDATE topics SET type = replace(type, '/msg/', '/')")
        database.execute('DROP TABLE message_definitions')
        database.execute('DROP TABLE schema')
    with Bag(file) as bag:
        assert {t.msgtype for t in bag.topics} == {bags.IMAGE, bags.JOINTS, bags.TRAJECTORY}
        assert len(list(bag.messages())) == 9 and not bag.damage
