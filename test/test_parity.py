"""An engine is held against outputs in the bundle, and `auto` against what is there."""

import json
import re

import numpy as np
import pytest
from fakes import FakeEngine, tiny_spec

from diffusion_policy_rt.engines import load
from diffusion_policy_rt.engines.bundle import write_bundle
from diffusion_policy_rt.engines.load import ENGINES, load_engine
from diffusion_policy_rt.engines.parity import PARITY, check_parity, deviation, write_parity
from diffusion_policy_rt.errors import BundleError, EngineError


@pytest.fixture
def bundle(tmp_path):
    """Return a bundle that holds what a fake engine gives."""
    spec = tiny_spec()
    return write_bundle(tmp_path / 'p', {'spec': spec.to_json()},
                        lambda folder: write_parity(folder, spec, FakeEngine(spec)))


class Off(FakeEngine):
    """An engine whose outputs are off by a factor."""

    factor = 1.01

    def denoise(self, *args):
        return super().denoise(*args) * self.factor


def test_an_engine_that_gives_what_is_stored_passes(bundle):
    assert check_parity(bundle, FakeEngine(bundle.spec), 'fake') < 1e-12


def test_every_camera_and_every_step_count_is_looked_at(bundle):
    stored = json.loads(bundle.path(PARITY).read_text())['outputs']
    assert set(stored) == {'latent of front', *(f'chunk of {n} steps' for n in (1, 2, 4))}


@pytest.mark.parametrize('factor', [1.01, float('nan')])
def test_an_engine_that_gives_other_outputs_is_refused_with_the_difference(bundle, factor):
    engine = Off(bundle.spec)
    engine.factor = factor
    with pytest.raises(EngineError, match='fake gives outputs that differ by') as caught:
        check_parity(bundle, engine, 'fake')
    assert '\n' not in str(caught.value)


def test_the_tolerance_is_the_bundle_s(tmp_path):
    spec = tiny_spec()
    loose = write_bundle(tmp_path / 'p', {'spec': spec.to_json()}, lambda folder: write_parity(
        folder, spec, FakeEngine(spec), 0.02))
    assert 0.005 < check_parity(loose, Off(spec), 'fake') < 0.02
    assert deviation(loose, Off(spec))[1] == 0.02


def test_a_bundle_without_stored_outputs_is_not_checked(tmp_path):
    spec = tiny_spec()
    bare = write_bundle(tmp_path / 'p', {'spec': spec.to_json()}, lambda folder: None)
    assert check_parity(bare, Off(spec), 'fake') is None


@pytest.mark.parametrize('text', ['{', '{}', '{"tolerance": 1, "outputs": {}}', '[]',
                                  '{"tolerance": 1, "outputs": {"latent of front": [1]}}'])
def test_stored_outputs_that_do_not_fit_are_refused(tmp_path, text):
    spec = tiny_spec()
    odd = write_bundle(tmp_path / 'p', {'spec': spec.to_json()},
                       lambda folder: (folder / PARITY).write_text(text) and None)
    with pytest.raises(BundleError, match='parity.json does not fit'):
        check_parity(odd, FakeEngine(spec), 'fake')


def test_an_exported_bundle_holds_its_networks_outputs(exported):
    from diffusion_policy_rt.engines.torch_engine import TorchNetworks
    for model in ('keypoint_mlp', 'resnet_unet'):
        bundle, policy = exported(model, 'edm')
        assert deviation(bundle, TorchNetworks(policy))[0] == 0
        assert 0 < deviation(bundle, load_engine(bundle, 'onnxruntime'))[0] < 1e-4


# -- auto ---------------------------------------------------------------------------------------


class Timed(FakeEngine):
    """Takes turns with others; its calls cost what its class says."""

    cost = 0

    def __init__(self, bundle, threads):
        super().__init__(bundle.spec)

    def denoise(self, *args):
        for _ in range(self.cost):
            np.linalg.norm(np.ones(1000))
        return super().denoise(*args)


@pytest.fixture
def choice(monkeypatch):
    """Let `auto` choose among fakes; return a function that says what there is."""
    def offer(gpu, **engines):
        monkeypatch.setattr(load, 'gpu', lambda: gpu)
        monkeypatch.setattr(load, 'installed', lambda: [n for n in ENGINES if n in engines])

        def make(bundle, name, threads):
            if isinstance(engines[name], Exception):
                raise engines[name]
            made = Timed(bundle, threads)
            made.name, made.cost = name, engines[name]
            return made

        monkeypatch.setattr(load, '_load', make)

    return offer


def test_without_a_gpu_auto_loads_onnxruntime_and_nothing_else(bundle, choice):
    never = EngineError('must not be loaded')
    choice(False, onnxruntime=9, torch=never, tensorrt=never)
    assert load_engine(bundle).name == 'onnxruntime'


def test_with_a_gpu_auto_takes_what_was_measured_to_be_the_fastest(bundle, choice):
    choice(True, onnxruntime=300, torch=0, tensorrt=300)
    assert load_engine(bundle).name == 'torch'


def test_an_engine_that_cannot_run_the_bundle_is_left_out_with_a_word(bundle, choice, caplog):
    choice(True, onnxruntime=0, tensorrt=EngineError('it cannot'))
    assert load_engine(bundle).name == 'onnxruntime'
    assert 'tensorrt is left out: it cannot' in caplog.text


@pytest.mark.parametrize('gpu, engines, match', [
    (False, {}, 'no engine is installed; pip install'),
    (False, {'tensorrt': 0}, 'no engine is installed'),
    (True, {'torch': EngineError('no')}, 'no engine runs .* here')])
def test_where_nothing_runs_the_cure_is_named(bundle, choice, gpu, engines, match):
    choice(gpu, **engines)
    with pytest.raises(EngineError, match=match):
        load_engine(bundle)


@pytest.mark.parametrize('engine', ENGINES)
def test_an_engine_that_is_not_installed_names_its_command(bundle, monkeypatch, engine):
    monkeypatch.setattr(load, 'installed', lambda: [])
    with pytest.raises(EngineError, match=f'{engine} is not installed: '
                       + re.escape(ENGINES[engine].how)):
        load_engine(bundle, engine)
