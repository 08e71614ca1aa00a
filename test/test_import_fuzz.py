"""`dprt import` on damaged checkpoints: a policy, or one line that says what is wrong."""

import copy
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip('torch', reason='importing needs torch')
pytest.importorskip('onnx', reason='importing needs onnx')

from golden import rebuild  # noqa: E402
from test_import_original import CASES, save  # noqa: E402

from diffusion_policy_rt.errors import DprtError  # noqa: E402
from diffusion_policy_rt.train.importing.assemble import Robot, make_spec  # noqa: E402
from diffusion_policy_rt.train.importing.find import read_source  # noqa: E402
from diffusion_policy_rt.train.importing.networks import make_policy  # noqa: E402

LEROBOT, ORIGINAL = 'no_camera', 'lowdim_unet_ddim'
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 20) | st.sampled_from((10**9, 10**400))
    | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner,
                                                                max_size=3), max_leaves=4)


def places(value, head=()):
    """Return the path of every value within."""
    items = (value.items() if isinstance(value, dict) else
             enumerate(value) if isinstance(value, list) else ())
    return [path for key, item in items for path in [(*head, key), *places(item, (*head, key))]]


def changed(value, place, new):
    """Return a copy with another value in one place."""
    made = copy.deepcopy(value)
    within = made
    for key in place[:-1]:
        within = within[key]
    within[place[-1]] = new
    return made


def refused(path):
    """Read a checkpoint up to its networks; return whether it was refused, in one line."""
    try:
        source = read_source(str(path))
        spec = make_spec(source, Robot(10.0), 'imported')
        make_policy(source, spec, {'encoder': source.encoder, 'denoiser': source.denoiser})
    except DprtError as error:
        assert '\n' not in str(error) and len(str(error)) < 1500
        return True
    return False


@pytest.fixture(scope='module')
def lerobot(tmp_path_factory):
    """Return a folder of LeRobot's, without cameras."""
    return rebuild.write(rebuild.cases()[LEROBOT], tmp_path_factory.mktemp('fuzz') / 'lerobot')


FILES = rebuild.cases()[LEROBOT]['files']
PLACES = [(name, place) for name in FILES for place in places(FILES[name])]


@given(st.sampled_from(PLACES), JSON)
@settings(max_examples=150)
def test_any_value_in_lerobot_s_files_is_taken_or_refused(lerobot, where, value):
    name, place = where
    try:
        (lerobot / name).write_text(json.dumps(changed(FILES[name], place, value)))
        refused(lerobot)
    finally:
        (lerobot / name).write_text(json.dumps(FILES[name]))


POLICY = CASES[ORIGINAL]['policy']


@given(st.sampled_from(places(POLICY)), JSON)
@settings(max_examples=80)
def test_any_value_in_the_original_s_configuration_is_taken_or_refused(tmp_path_factory, place,
                                                                       value):
    path = tmp_path_factory.getbasetemp() / 'fuzz.ckpt'
    policy = changed(POLICY, place, value)
    refused(save(path, ORIGINAL, {place[0]: policy[place[0]]}))


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """Return the bytes of a whole file of each kind, by its name."""
    folder = tmp_path_factory.mktemp('whole')
    rebuild.write(rebuild.cases()[LEROBOT], folder)
    save(folder / 'latest.ckpt', ORIGINAL, trained=True)
    return {name: (folder / name).read_bytes()
            for name in ('model.safetensors', 'config.json', 'latest.ckpt')}


@given(st.sampled_from(('model.safetensors', 'config.json', 'latest.ckpt')), st.floats(0, 1),
       st.integers(0, 255) | st.none())
@settings(max_examples=80)
def test_a_byte_that_changed_or_an_end_that_lacks_is_refused_or_harmless(lerobot, whole, name,
                                                                         share, byte):
    data = whole[name]
    at = int(share * (len(data) - 1))
    spoiled = data[:at] + (b'' if byte is None else bytes([byte]) + data[at + 1:])
    try:
        (lerobot / name).write_bytes(spoiled)
        found = refused(lerobot / name if name == 'latest.ckpt' else lerobot)
    finally:
        (lerobot / name).write_bytes(data)
    assert found or byte is not None, 'a truncated file was read'


def test_what_is_undamaged_is_read(lerobot, whole):
    (lerobot / 'latest.ckpt').write_bytes(whole['latest.ckpt'])
    assert not refused(lerobot) and not refused(lerobot / 'latest.ckpt')


def make_loop(folder):
    """Make two links that refer to each other."""
    (folder / 'a').symlink_to(folder / 'b')
    (folder / 'b').symlink_to(folder / 'a')
    return folder / 'a'


def make_loop_within(folder):
    """Make a policy whose configuration is a link to itself."""
    (folder / 'config.json').symlink_to(folder / 'config.json')
    return folder


def make_part(folder):
    """Make one file of a policy."""
    (folder / 'model.safetensors').write_bytes(b'')
    return folder / 'model.safetensors'


def make_listing(folder):
    """Make a checkpoint of something else."""
    torch.save({'state_dict': {}}, folder / 'last.ckpt')
    return folder / 'last.ckpt'


ODD = {'an empty folder': (lambda folder: folder, 'holds no policy'),
       'a loop of links': (make_loop, 'no such file'),
       'a loop within': (make_loop_within, 'holds no policy'),
       'one file of a policy': (make_part, 'the folder that holds it'),
       'another checkpoint': (make_listing, "no 'cfg'"),
       'a name that is too long': (lambda folder: folder / ('a' * 5000), 'too long'),
       'the home of nobody': (lambda folder: '~nobody-is-called-so/policy', 'home')}


@pytest.mark.parametrize('what', ODD)
def test_what_is_no_checkpoint_is_refused_with_its_cure(what, tmp_path):
    make, said = ODD[what]
    with pytest.raises(DprtError, match=said) as raised:
        read_source(str(make(tmp_path)))
    assert '\n' not in str(raised.value) and 'give' in str(raised.value)
