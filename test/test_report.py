"""The report is what the bag says: every tick, every episode, and pictures of them."""

import json

import numpy as np
import pytest

from diffusion_policy_rt.errors import DataError
from diffusion_policy_rt.ros.bag import TYPES, BagWriter, qos, read_bag
from diffusion_policy_rt.replay.report import read_recording, write_report
from diffusion_policy_rt.runtime.trace import FIELDS, Rung, Tick, summarise

MESSAGES = {
    '/camera/front/image_raw': 'sensor_msgs/msg/Image',
    '/policy/timing': 'std_msgs/msg/Float64MultiArray',
    '/pusht/coverage': 'std_msgs/msg/Float64',
    '/pusht/episode': 'std_msgs/msg/String',
}
PERIOD = 100_000_000


def tick(k):
    return Tick(k, 0.004 if k % 3 else float('nan'), 0.003, 0.001, 0.002, 0.04 - 0.001 * k, 4,
                Rung.FRESH if k % 3 else Rung.CHUNK, 1, 0.002, 0.0, k == 7)


def message(kind, **fields):
    return TYPES.serialize_cdr(TYPES.types[kind](**fields), kind)


@pytest.fixture
def folder(tmp_path):
    """Return a report folder whose bag holds 60 ticks, pictures, coverages and two episodes."""
    layout = TYPES.types['std_msgs/msg/MultiArrayLayout'](dim=[], data_offset=0)
    header = TYPES.types['std_msgs/msg/Header'](
        stamp=TYPES.types['builtin_interfaces/msg/Time'](sec=1, nanosec=0), frame_id='')
    pixels = np.random.default_rng(0).integers(0, 256, 96 * 96 * 3, np.uint8)
    with BagWriter(tmp_path / 'bag') as bag:
        for topic, kind in MESSAGES.items():
            bag.add_topic(topic, kind, qos(reliable=True))
        for k in range(60):
            now = 10**18 + k * PERIOD
            bag.write('/camera/front/image_raw', now, message(
                'sensor_msgs/msg/Image', header=header, height=96, width=96, encoding='rgb8',
                is_bigendian=0, step=288, data=pixels))
            bag.write('/policy/timing', now + 1, message(
                'std_msgs/msg/Float64MultiArray', layout=layout, data=np.array(tick(k).values())))
            bag.write('/pusht/coverage', now + 2, message('std_msgs/msg/Float64', data=k / 100))
        for k in (0, 1):
            episode = json.dumps({'seed': k, 'max_coverage': 0.5, 'success': False})
            bag.write('/pusht/episode', now + 3 + k, message('std_msgs/msg/String', data=episode))
    return tmp_path


def test_a_bag_gives_back_what_was_written_in_order(folder):
    messages = list(read_bag(folder / 'bag'))
    assert [m.stamp_ns for m in messages] == sorted(m.stamp_ns for m in messages)
    assert {m.topic for m in messages} == set(MESSAGES) and len(messages) == 3 * 60 + 2
    assert [m.data.data for m in read_bag(folder / 'bag', '/pusht/coverage')][:2] == [0.0, 0.01]


def test_the_recording_holds_every_tick_and_episode(folder):
    recording = read_recording(folder / 'bag', picture_s=1.0)
    np.testing.assert_equal([t.values() for t in recording.ticks],
                            [tick(k).values() for k in range(60)])
    assert [e['seed'] for e in recording.episodes] == [0, 1]
    assert len(recording.pictures) == 6 and recording.pictures[0][1].shape == (96, 96, 3)


def test_the_figures_are_those_of_the_ticks(folder):
    result = write_report(folder, rate=10.0, deadline=0.05)
    expected = summarise([tick(k) for k in range(60)])
    assert {k: result[k] for k in expected} == expected
    assert result['missed'] == 1 and result['rungs']['chunk'] == 20
    assert result['stamp_to_publish_s']['p50'] == pytest.approx(0.004)
    assert result['rate_hz'] == 10.0 and result['deadline_s'] == 0.05
    assert json.loads((folder / 'summary.json').read_text()) == json.loads(json.dumps(result))


def test_the_trace_is_one_json_object_per_tick(folder):
    write_report(folder, 10.0, 0.05)
    lines = [json.loads(line) for line in (folder / 'trace.jsonl').read_text().splitlines()]
    assert len(lines) == 60 and set(lines[0]) == set(FIELDS)
    assert lines[0]['stamp_to_publish_s'] is None and lines[1]['rung'] == 'fresh'


def test_pictures_are_drawn(folder):
    write_report(folder, 10.0, 0.05)
    assert all((folder / name).stat().st_size > 5000 for name in ('timeline.png', 'episodes.png'))


def test_a_folder_that_stands_is_not_overwritten_and_none_is_no_bag(folder, tmp_path):
    with pytest.raises(DataError, match='exists'):
        BagWriter(folder / 'bag')
    with pytest.raises(DataError, match='no bag'):
        list(read_bag(tmp_path / 'nothing'))


def test_a_run_without_ticks_still_has_a_report(tmp_path):
    with BagWriter(tmp_path / 'bag') as bag:
        bag.add_topic('/pusht/coverage', 'std_msgs/msg/Float64', qos(reliable=True))
        bag.write('/pusht/coverage', 1, message('std_msgs/msg/Float64', data=0.0))
    result = write_report(tmp_path, 10.0, 0.05)
    assert result['ticks'] == 0 and result['stamp_to_publish_s']['p50'] is None
