"""Bags as demonstrations: the rows that a policy would have had, however they were recorded."""

import copy
import json

import bags
import numpy as np
import pytest
import yaml
from fakes import MS, START, STEP

torch = pytest.importorskip('torch', reason='training needs torch')

from test_cli_distill import RECIPE, TRAIN, toy, write_data  # noqa: E402, F401

from diffusion_policy_rt.cli.main import main  # noqa: E402
from diffusion_policy_rt.engines.bundle import read_bundle  # noqa: E402
from diffusion_policy_rt.errors import DataError  # noqa: E402
from diffusion_policy_rt.ros.bag import TYPES  # noqa: E402
from diffusion_policy_rt.ros.events import RESET, STOP, Event  # noqa: E402
from diffusion_policy_rt.train.recipe import parse_recipe  # noqa: E402
from diffusion_policy_rt.train.run import open_data  # noqa: E402

EPISODE_NS = 30 * STEP
"""From the begin of one episode to that of the next, 20 rows each."""


def image(stamp, pixels):
    rows, columns, _ = pixels.shape
    return bags.make(TYPES, bags.IMAGE, header=bags.header(TYPES, stamp), height=rows,
                     width=columns, encoding='rgb8', is_bigendian=0, step=3 * columns,
                     data=np.ascontiguousarray(pixels).reshape(-1))


def found(data, jitter=lambda k: 0, action_late=12 * MS):
    """Return the rows of `write_data` as messages: a frame and a state, then an action."""
    arrays = np.load(data / 'a.npz')
    made = []
    for k, (pixels, state, act) in enumerate(zip(*(
            arrays[name] for name in ('img', 'state', 'action')))):
        stamp = START + (k // 20) * EPISODE_NS + (k % 20) * STEP + jitter(k)
        command = bags.action(TYPES, stamp)
        command.joint_names, command.points[0].positions = ['x', 'y'], act.astype(float)
        made += [(bags.FRONT, bags.IMAGE, stamp + 3 * MS, image(stamp, pixels)),
                 (bags.STATE, bags.JOINTS, stamp + 4 * MS, bags.joints(TYPES, stamp, 'xy', state)),
                 (bags.ACTION, bags.TRAJECTORY, stamp + action_late, command)]
    return made


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp('rows'))


def rows(path, recipe=RECIPE, **more):
    return open_data(parse_recipe(recipe), [path], **more)


def same(one, other):
    assert set(one.streams) == set(other.streams) == {'front', 'state', 'action'}
    for name, values in one.streams.items():
        np.testing.assert_array_equal(values, other.streams[name])
    np.testing.assert_array_equal(one.episode_ends, other.episode_ends)


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_a_bag_gives_the_rows_that_it_was_made_from(data, tmp_path, storage):
    path = bags.write(tmp_path / 'bag', found(data), storage)
    same(rows(path), rows(data))
    file = next(path.glob('*.mcap' if storage == 'mcap' else '*.db3'))
    same(rows(file), rows(data))


def test_some_images_of_a_bag_are_those_of_all_and_damaged_ones_stay_out(data, tmp_path):
    made = found(data)
    for k in (4, 30):  # an image that cannot be decoded: its row is none
        made[3 * k][3].data = made[3 * k][3].data[:-1]
    read = rows(bags.write(tmp_path / 'bag', made))
    frames = read.streams['front']
    assert len(frames) < 80 and len(read.episode_ends) > 4
    whole = frames[:]
    chosen = np.random.default_rng(0).choice(len(frames), 9)
    np.testing.assert_array_equal(frames[chosen], whole[chosen])
    given = rows(data).streams
    images, states = given['front'][:], given['state']
    for image, state in zip(whole, read.streams['state']):
        np.testing.assert_array_equal(image, images[(states == state).all(1)][0])


def test_jitter_and_the_delay_of_actions_move_no_row(data, tmp_path):
    rng = np.random.default_rng(0)
    jitter = rng.integers(0, 20 * MS, 80).tolist()
    path = bags.write(tmp_path / 'bag', sorted(
        found(data, lambda k: jitter[k], 40 * MS), key=lambda m: m[2]))
    same(rows(path), rows(data))


def test_streams_faster_than_the_policy_are_taken_as_of_its_instants(data, tmp_path):
    made = found(data)
    for topic, kind, at, message in list(made):
        if topic != bags.ACTION:  # what lies between two rows, and belongs to none
            between = copy.deepcopy(message)
            between.header.stamp.nanosec += STEP // 2
            if topic == bags.STATE:
                between.position = between.position + 50
            else:
                between.data = 255 - between.data
            made.append((topic, kind, at + STEP // 2, between))
    path = bags.write(tmp_path / 'bag', sorted(made, key=lambda m: m[2]))
    same(rows(path), rows(data))


def test_an_episode_ends_at_resets_and_stops_and_where_something_lacks(data, tmp_path):
    made = [m for k, m in enumerate(found(data)) if k != 3 * 47 + 2]  # one action
    for kind, k in ((RESET, 5), (STOP, 28)):
        at = START + (k // 20) * EPISODE_NS + (k % 20) * STEP - 30 * MS
        text = bags.make(TYPES, 'std_msgs/msg/String', data=Event(kind, at, at).to_json())
        made.append(('/policy/events', 'std_msgs/msg/String', at, text))
    path = bags.write(tmp_path / 'bag', sorted(made, key=lambda m: m[2]))
    read = rows(path)
    assert read.episode_ends.tolist() == [5, 20, 28]  # nothing was told of a start after the stop
    np.testing.assert_array_equal(read.streams['state'], rows(data).streams['state'][:28])
    path = bags.write(tmp_path / 'plain', [m for m in made if m[0] != '/policy/events'])
    assert rows(path).episode_ends.tolist() == [20, 40, 47, 59, 79]


def test_large_images_are_made_the_recipe_s_size_as_they_are_read(data, tmp_path):
    small = {**RECIPE, 'cameras': {'front': {'keys': ['img'], 'height': 12, 'width': 12}}}
    read = rows(bags.write(tmp_path / 'bag', found(data)), small)
    assert read.streams['front'].shape == (80, 12, 12, 3)


def test_topics_are_named_by_the_recipe_s_keys(data, tmp_path):
    names = {bags.FRONT: '/cam', bags.STATE: '/arm', bags.ACTION: '/leader'}
    made = [(names[t], k, at, m) for t, k, at, m in found(data)]
    path = bags.write(tmp_path / 'bag', made)
    with pytest.raises(DataError, match='such as /arm/command'):
        rows(path)
    named = {**RECIPE, 'action': {**RECIPE['action'], 'keys': ['/other', '/leader', 'action']}}
    same(rows(path, named), rows(data))


def test_a_gripper_s_own_commands_are_part_of_the_action(data, tmp_path):
    made, whole = [], rows(data)
    for topic, kind, at, message in found(data):
        made.append((topic, kind, at, message))
        if topic == bags.ACTION:
            claw, both = copy.deepcopy(message), message.points[0].positions
            message.joint_names, message.points[0].positions = ['x'], both[:1]
            claw.joint_names, claw.points[0].positions = ['y'], both[1:]
            made.append(('/policy/gripper_action', kind, at + MS, claw))
    same(rows(bags.write(tmp_path / 'bag', made)), whole)
    rare = [m for k, m in enumerate(made) if m[0] != '/policy/gripper_action' or k % 40 == 3]
    read = rows(bags.write(tmp_path / 'rare', rare))  # each stands until the next
    y = read.streams['action'][:, 1]
    assert len(y) == 80 and set(y) <= set(whole.streams['action'][:, 1]) and len(set(y)) == 8
    np.testing.assert_array_equal(read.streams['action'][:, 0], whole.streams['action'][:, 0])


@pytest.mark.parametrize('change, why', [
    ({'pretrain': {'keys': ['keypoint'], 'epochs': 1, 'batch_size': 1, 'learning_rate': 1.0}},
     'a recipe without `pretrain`'),
    ({'state': {**RECIPE['state'], 'index': [1, 0]}}, 'leave `index` out'),
    ({'state': {**RECIPE['state'], 'names': ['x', 'z']}}, 'joint z is missing'),
    ({'cameras': {'front': {'keys': [], 'height': 48, 'width': 48}}}, 'smaller than the 48x48'),
    ({'cameras': {c: {'keys': [], 'height': 24, 'width': 24} for c in ('front', 'wrist')}},
     'camera wrist')])
def test_a_recipe_that_does_not_fit_is_refused_with_its_cure(data, tmp_path, change, why):
    path = bags.write(tmp_path / 'bag', found(data))
    with pytest.raises(DataError, match=why):
        rows(path, {**RECIPE, **change})


def test_actions_are_needed_to_train_but_not_to_calibrate(data, tmp_path):
    path = bags.write(tmp_path / 'bag', [m for m in found(data) if m[0] != bags.ACTION])
    with pytest.raises(DataError, match='no topic of actions'):
        rows(path)
    assert rows(path, actions=False).episode_ends.tolist() == [20, 40, 60, 80]


def test_training_distilling_and_quantizing_take_bags(toy, tmp_path, capsys):  # noqa: F811
    data, teacher = toy
    path = bags.write(tmp_path / 'bag', found(data))
    (tmp_path / 'r.yaml').write_text(yaml.safe_dump(RECIPE))
    made = []
    for source in (path, data):
        out = tmp_path / f'of_{source.name}'
        assert main(['train', '--data', str(source), '--recipe', str(tmp_path / 'r.yaml'), '--out',
                     str(out), '--threads', '1']) == 0
        made.append(read_bundle(out / 'bundle'))
    assert made[0].files['weights.safetensors'] == made[1].files['weights.safetensors']
    assert made[0].training['data'] == 'bag' and made[0].training['episodes'] == 4
    (tmp_path / 'd.yaml').write_text(yaml.safe_dump({
        'method': 'consistency', 'steps': [1], 'train': {**TRAIN, 'epochs': 1}, 'loss': {}}))
    assert main(['distill', '--teacher', str(teacher), '--data', str(path), '--method',
                 'consistency', '--recipe', str(tmp_path / 'd.yaml'), '--out',
                 str(tmp_path / 'student'), '--threads', '1']) == 0
    assert main(['quantize', '--policy', str(teacher), '--calibrate', str(path), '--out',
                 str(tmp_path / 'q8'), '--observations', '8', '--episodes', '0', '--override',
                 '--json', str(tmp_path / 'q8.json')]) == 0
    told = json.loads((tmp_path / 'q8.json').read_text())
    assert read_bundle(told['bundle']).provenance['calibration']['data'] == ['bag']
