"""A bundle is whole or refused, and written whole or not at all."""

import json
import math
import shutil

import pytest
from fakes import tiny_spec

from diffusion_policy_rt.engines.bundle import MANIFEST, read_bundle, resolve, write_bundle
from diffusion_policy_rt.errors import BundleError


def fill(folder):
    (folder / 'weights.safetensors').write_bytes(b'0123456789')
    (folder / 'denoiser.onnx').write_bytes(b'graph')


@pytest.fixture
def folder(tmp_path):
    """Return a folder that holds a sound bundle."""
    return write_bundle(tmp_path / 'policy', {'spec': tiny_spec().to_json()}, fill).folder


def edit(folder, **changes):
    data = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(data | changes))


def refused(folder, match):
    with pytest.raises(BundleError, match=match) as caught:
        read_bundle(folder)
    assert '\n' not in str(caught.value) and str(folder) in str(caught.value)


def test_what_was_written_is_read(folder):
    bundle = read_bundle(folder)
    assert bundle.spec == tiny_spec() and set(bundle.files) == {
        'weights.safetensors', 'denoiser.onnx'}
    assert bundle.path('denoiser.onnx').read_bytes() == b'graph'


def test_the_digest_tells_bundles_apart_and_survives_a_copy(folder, tmp_path):
    before = read_bundle(folder).digest
    shutil.copytree(folder, tmp_path / 'copy')
    assert read_bundle(tmp_path / 'copy').digest == before
    edit(folder, quality={'score': 1})
    assert read_bundle(folder).digest != before


def test_a_file_that_the_bundle_has_not_is_named_with_those_it_has(folder):
    with pytest.raises(BundleError, match='has no encoder.onnx; it holds .*denoiser.onnx'):
        read_bundle(folder).path('encoder.onnx')


def test_a_truncated_file_is_refused(folder):
    (folder / 'weights.safetensors').write_bytes(b'012345678')
    refused(folder, 'weights.safetensors has 9 bytes instead of 10')


def test_a_changed_byte_is_refused(folder):
    (folder / 'weights.safetensors').write_bytes(b'0123456780')
    refused(folder, 'weights.safetensors was changed')


def test_a_missing_file_is_refused(folder):
    (folder / 'denoiser.onnx').unlink()
    refused(folder, 'denoiser.onnx is missing')


@pytest.mark.parametrize('exists', [True, False])
def test_a_folder_without_a_manifest_is_no_bundle(tmp_path, exists):
    (tmp_path / 'empty').mkdir(exist_ok=exists)
    refused(tmp_path / ('empty' if exists else 'nowhere'), 'no bundle.*policy.json')


@pytest.mark.parametrize('text', [b'', b'{"format": 1', b'\xff\xfe\x00', b'7', b'null', b'[{}]'])
def test_a_damaged_manifest_is_refused(folder, text):
    (folder / MANIFEST).write_bytes(text)
    refused(folder, MANIFEST)


@pytest.mark.parametrize('changes, match', [
    ({'format': 2}, 'unknown format; this version reads format 1'),
    ({'format': None}, 'unknown format'),
    ({'pickle': 'x'}, 'key pickle'),
    ({'spec': tiny_spec().to_json() | {'rate': 0}}, 'rate'),
    ({'spec': {}}, 'spec|state|policy'),
    ({'spec': []}, 'policy'),
    ({'files': []}, 'files'),
    ({'files': {'denoiser.onnx': 5}}, 'denoiser.onnx'),
])
def test_an_unknown_or_contradictory_manifest_is_refused(folder, changes, match):
    edit(folder, **changes)
    refused(folder, match)


@pytest.mark.parametrize('name', ['../x', 'sub/x', '/etc/hostname', '..', '.', ''])
def test_a_bundle_names_no_file_outside_its_folder(folder, name):
    (folder.parent / 'x').write_bytes(b'x')
    (folder / 'sub').mkdir()
    (folder / 'sub/x').write_bytes(b'x')
    digest = '2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881'
    edit(folder, files={name: {'bytes': 1, 'sha256': digest}})
    refused(folder, 'no file name')


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def failing(folder):
    fill(folder)
    raise KeyboardInterrupt


@pytest.mark.parametrize('manifest, fail, error', [
    ({'spec': tiny_spec().to_json()}, failing, KeyboardInterrupt),
    ({'spec': {}}, fill, BundleError),
    ({'spec': tiny_spec().to_json(), 'extra': 1}, fill, BundleError),
])
def test_a_failed_write_leaves_the_old_bundle_and_nothing_else(folder, manifest, fail, error):
    before = contents(folder)
    for target in (folder, folder.parent / 'new'):
        with pytest.raises(error):
            write_bundle(target, manifest, fail)
    assert contents(folder) == before and list(folder.parent.iterdir()) == [folder]


def test_a_new_bundle_replaces_the_old_one_whole(folder):
    write_bundle(folder, {'spec': tiny_spec(3).to_json()},
                 lambda partial: (partial / 'other').write_bytes(b'x'))
    assert read_bundle(folder).spec.n_obs == 3
    assert set(contents(folder)) == {MANIFEST, 'other'}
    assert list(folder.parent.iterdir()) == [folder]


def test_what_is_no_bundle_is_never_replaced(tmp_path):
    (tmp_path / 'thesis').mkdir()
    (tmp_path / 'thesis/chapter').write_text('precious')
    (tmp_path / 'notes').write_text('precious')
    for name in ('thesis', 'notes'):
        with pytest.raises(BundleError, match=f'{name} exists and is no bundle'):
            write_bundle(tmp_path / name, {'spec': tiny_spec().to_json()}, fill)
    assert (tmp_path / 'thesis/chapter').read_text() == 'precious'
    assert sorted(p.name for p in tmp_path.iterdir()) == ['notes', 'thesis']


def test_unbounded_values_survive_the_manifest(tmp_path):
    state = tiny_spec().state
    free = state.__class__(**vars(state) | {'low': (-math.inf,) * 3, 'high': (math.inf,) * 3})
    spec = tiny_spec(state=free)
    assert write_bundle(tmp_path / 'p', {'spec': spec.to_json()}, fill).spec == spec


def test_an_empty_name_is_the_shipped_push_t_policy(tmp_path):
    assert resolve('').name == 'pusht' and resolve(tmp_path) == tmp_path
