"""Bags as they are found: each is evaluated to its last good message, or refused by name."""

import bags
import pytest
from fakes import MS, START, STEP
from rosbags.rosbag2 import StoragePlugin, Writer
from test_replay import replay

from diffusion_policy_rt.errors import DataError
from diffusion_policy_rt.ros.bag import Bag


def cut(path, share):
    """Cut a file to a share of its length."""
    data = path.read_bytes()
    path.write_bytes(data[:int(share * len(data))])
    return path


@pytest.mark.parametrize('compression, share', [
    (None, 0.3), (None, 0.99), ('STORAGE', 0.7), ('STORAGE', 0.99)])
def test_a_truncated_mcap_is_evaluated_to_its_last_good_message(tmp_path, compression, share):
    whole = bags.write(tmp_path / 'bag', bags.messages(400), 'mcap', compression)
    full, _ = replay(whole)
    path = cut(next(whole.glob('*.mcap')), share)
    lines, outcome = replay(path)
    assert any('damaged' in note and 'last good' in note for note in outcome.notes)
    assert 10 < len(lines) <= len(full)
    assert [t['action'] for t in lines[:-1]] == [t['action'] for t in full[:len(lines) - 1]]
    again, _ = replay(whole)  # the folder, whose metadata knows nothing of it
    assert again == lines


def test_a_truncated_sqlite_bag_is_evaluated_to_its_last_good_message(tmp_path):
    whole = bags.write(tmp_path / 'bag', bags.messages(400), 'sqlite3')
    full, _ = replay(whole)
    lines, outcome = replay(cut(next(whole.glob('*.db3')), 0.5))
    assert any('damaged' in note for note in outcome.notes)
    assert 10 < len(lines) < len(full)
    assert [t['action'] for t in lines[:-1]] == [t['action'] for t in full[:len(lines) - 1]]


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3', 'ros1'])
def test_a_file_that_is_hardly_there_is_no_bag(tmp_path, storage):
    whole = bags.write(tmp_path / 'bag', bags.messages(5, bags.TYPES1 if storage == 'ros1'
                                                       else bags.TYPES), storage)
    path = whole if whole.is_file() else next(f for f in whole.iterdir() if f.suffix != '.yaml')
    cut(path, 0.01)
    with pytest.raises(DataError, match='is no bag'):
        Bag(path)


@pytest.mark.parametrize('make', [
    lambda p: p / 'nothing', lambda p: p, lambda p: (p / 'a.mcap').write_text('no') and p])
def test_what_is_no_bag_is_refused(tmp_path, make):
    with pytest.raises(DataError, match='is no bag'):
        Bag(make(tmp_path))


def test_a_bag_without_images_is_refused_by_name(tmp_path):
    path = bags.write(tmp_path / 'bag', bags.messages(without=(bags.FRONT,)))
    with pytest.raises(DataError, match='camera front: the bag has 0 topics of images'):
        replay(path)


def test_a_topic_of_another_type_does_no_harm_but_cannot_be_an_input(tmp_path):
    text = bags.make(bags.TYPES, 'std_msgs/msg/String', data='hello')
    found = bags.messages() + [('/odd', 'std_msgs/msg/String', START + STEP, text)]
    path = bags.write(tmp_path / 'bag', found)
    plain = bags.write(tmp_path / 'plain', bags.messages())
    assert replay(path)[1].sha256 == replay(plain)[1].sha256
    with pytest.raises(DataError, match='/odd is of type std_msgs/msg/String'):
        replay(path, told=['camera.front=/odd'])


def service_events(path, found):
    """Write a bag as a recorder that was told to record services too, whose type is no message."""
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        events = writer.add_connection(
            '/add/_service_event', 'example_interfaces/srv/AddTwoInts_Event',
            msgdef='int64 a\nint64 b\n---\nint64 sum\n', rihs01='RIHS01_0')
        topics = {}
        for topic, kind, at, message in found:
            if topic not in topics:
                topics[topic] = writer.add_connection(topic, kind, typestore=bags.TYPES)
            writer.write(events, at, b'\0\1\0\0what rosbags cannot read')
            writer.write(topics[topic], at, bags.TYPES.serialize_cdr(message, kind))
    return path


def test_events_of_services_do_no_harm(tmp_path):
    plain = bags.write(tmp_path / 'plain', bags.messages(60))
    path = service_events(tmp_path / 'bag', bags.messages(60))
    lines, outcome = replay(path)
    assert outcome.sha256 == replay(plain)[1].sha256 and not outcome.notes
    with Bag(path) as bag, Bag(plain) as other:
        assert '/add/_service_event' in [topic.name for topic in bag.topics]
        assert len(list(bag.messages())) == len(bags.messages(60)) and not bag.damage
        assert bag.span_ns == other.span_ns
    half, outcome = replay(cut(next(path.glob('*.mcap')), 0.5))
    assert 5 < len(half) < len(lines) and any('last good' in note for note in outcome.notes)


def test_the_policy_goes_through_a_gap_as_it_does_live(tmp_path):
    gap = range(10, 40)
    found = [m for m in bags.messages(60) if (m[2] - START) // STEP not in gap]
    lines, outcome = replay(bags.write(tmp_path / 'bag', found))
    rungs = [t['rung'] for t in lines]
    assert 'stop' in rungs[20:] and rungs[-1] in ('fresh', 'chunk')
    assert any('without a message, the longest of 3.1 s' in n for n in outcome.notes)


def test_stamps_that_jump_back_are_told(tmp_path):
    found = bags.messages(20)
    for k in range(20, 40):  # the robot's clock was set back; the recorder's was not
        stamp, at = START + (k - 30) * STEP, START + k * STEP
        found += [(bags.FRONT, bags.IMAGE, at, bags.image(bags.TYPES, stamp)),
                  (bags.STATE, bags.JOINTS, at, bags.joints(bags.TYPES, stamp))]
    lines, outcome = replay(bags.write(tmp_path / 'bag', found))
    assert any('front: stamps jumped back once, by up to 2.9 s' in n for n in outcome.notes)
    assert any('too old' in reason for reason in outcome.reasons) and len(lines) > 30


def test_images_and_states_that_are_malformed_are_dropped_counted_and_told(tmp_path):
    found = bags.messages(20)
    small = bags.image(bags.TYPES, START + 5 * MS, shape=(4, 4))
    found.append((bags.FRONT, bags.IMAGE, START + 8 * MS, small))
    other = bags.joints(bags.TYPES, START + 6 * MS, names=('x', 'y', 'z'))
    found.append((bags.STATE, bags.JOINTS, START + 9 * MS, other))
    _, outcome = replay(bags.write(tmp_path / 'bag', found))
    assert outcome.dropped == {'camera front': 1, 'joint_states': 1}
    assert any('smaller than' in note for note in outcome.notes)
    assert any('joint grip is missing' in note for note in outcome.notes)
