"""An engine in a process of its own gives what the engine gives, and outlives its process."""

import os
import signal

import numpy as np
import pytest
from fakes import image_at

from diffusion_policy_rt.engines.load import load_engine
from diffusion_policy_rt.errors import EngineError
from diffusion_policy_rt.ros.engine_process import EngineProcess


@pytest.fixture
def engine(bundle):
    made = EngineProcess(bundle, 'onnxruntime', 1)
    yield made
    made.close()


def chunk_of(engine, spec):
    camera = spec.cameras[0]
    image = image_at(camera.name, 1, camera.input_size).transpose(2, 0, 1).astype(np.float32) / 255
    latent = engine.encode(camera.name, image)
    cond = np.resize(latent, spec.cond_dim)
    x = np.ones((spec.horizon, len(spec.action)))
    return engine.denoise(x, 1.5, cond)


def test_it_gives_what_the_engine_itself_gives(engine, bundle):
    own = load_engine(bundle, 'onnxruntime', 1)
    np.testing.assert_array_equal(chunk_of(engine, bundle.spec), chunk_of(own, bundle.spec))
    assert (engine.name, engine.dtypes) == (own.name, own.dtypes)


def test_a_process_that_was_killed_costs_one_call(engine, bundle):
    expected, before = chunk_of(engine, bundle.spec), engine.pid
    os.kill(before, signal.SIGSTOP)
    engine.patience_s = 0.2
    with pytest.raises(EngineError, match='no answer within 0.2 s.*started again'):
        chunk_of(engine, bundle.spec)
    engine.patience_s = 20
    np.testing.assert_array_equal(chunk_of(engine, bundle.spec), expected)
    assert engine.pid != before


def test_what_the_engine_raises_is_told_and_the_process_goes_on(engine, bundle):
    before = engine.pid
    with pytest.raises(EngineError, match='KeyError'):
        engine.encode('nowhere', np.zeros((3, 4, 4), np.float32))
    chunk_of(engine, bundle.spec)
    assert engine.pid == before


def test_an_engine_that_cannot_be_loaded_is_refused_with_its_reason(bundle):
    with pytest.raises(EngineError, match="unknown engine 'abacus'"):
        EngineProcess(bundle, 'abacus', 1)
