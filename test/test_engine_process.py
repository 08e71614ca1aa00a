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


def test_a_plan_whose_process_was_killed_is_lost_and_the_next_one_is_not(tmp_path, bundle):
    pytest.importorskip('torch', reason='the step graphs are exported by torch')
    from diffusion_policy_rt.train.quantize.run import reexport
    schedule = bundle.spec.schedule(4)
    made = reexport(bundle, tmp_path / 'blocked', blocks={
        '4': {'sigmas': list(schedule.sigmas), 'fresh': ['11', '00', '10', '01']}})
    engine, own = EngineProcess(made, 'onnxruntime', 1), load_engine(made, 'onnxruntime')
    x, cond = np.ones((8, 2)), np.ones(made.spec.cond_dim, np.float32)
    try:
        assert engine.blockwise(made.spec.schedule(2)) is None
        plan = engine.blockwise(schedule)
        plan.denoise(x, schedule.sigmas[0], cond)
        engine.close()
        with pytest.raises(EngineError, match='ended with the process'):
            plan.denoise(x, schedule.sigmas[1], cond)
        ours, theirs = ([each.denoise(x, sigma, cond) for sigma in schedule.sigmas]
                        for each in (engine.blockwise(schedule), own.blockwise(schedule)))
        np.testing.assert_array_equal(ours, theirs)
        assert engine.restarts == 1 and engine.blocks == {'computed': 6, 'kept': 4}
        assert engine.conditioned.hits == 3  # of the second plan: nothing outlives a process
    finally:
        engine.close()


def test_stages_are_the_engine_s_own_and_outlive_its_process(engine, bundle):
    theirs, ours = load_engine(bundle, 'onnxruntime').staged('front'), engine.staged('front')
    x = np.random.default_rng(0).standard_normal(
        (3, *bundle.spec.camera('front').input_size), np.float32)
    engine.close()
    for mine, own in zip(ours.stages, theirs.stages):
        assert mine.fields == own.fields
        x = np.pad(x, ((0, 0), *[(own.fields[0].margin,) * 2] * 2))
        np.testing.assert_array_equal(mine.run(x), own.run(x))
        x = own.run(x)
    np.testing.assert_array_equal(ours.head(x), theirs.head(x))


def test_what_the_engine_raises_is_told_and_the_process_goes_on(engine, bundle):
    before = engine.pid
    with pytest.raises(EngineError, match='KeyError'):
        engine.encode('nowhere', np.zeros((3, 4, 4), np.float32))
    chunk_of(engine, bundle.spec)
    assert engine.pid == before


def test_an_engine_that_cannot_be_loaded_is_refused_with_its_reason(bundle):
    with pytest.raises(EngineError, match="unknown engine 'abacus'"):
        EngineProcess(bundle, 'abacus', 1)
