"""What the denoiser makes of level and condition is kept, and no bit of an output changes."""

import dataclasses

import numpy as np
import pytest
from fakes import MODELS, START, STEP, feed, frame_at, make_loop, state_at, stirred, tiny_spec
from hypothesis import given
from hypothesis import strategies as st

from diffusion_policy_rt.engines.bundle import SPLIT
from diffusion_policy_rt.engines.load import load_engine
from diffusion_policy_rt.runtime import conditioned
from diffusion_policy_rt.runtime.caches import CacheRules
from diffusion_policy_rt.runtime.clock import ManualClock
from diffusion_policy_rt.runtime.conditioned import Conditioned
from diffusion_policy_rt.runtime.loop import PolicyLoop
from diffusion_policy_rt.runtime.settings import LoopSettings
from diffusion_policy_rt.runtime.trace import Rung


class Counting:
    """Three parts that count their calls."""

    def __init__(self):
        self.calls = {'level': [], 'observed': [], 'step': []}
        self.net = Conditioned(self.level, self.observed, self.step)

    def level(self, *levels):
        self.calls['level'].append(levels)
        return np.float32(sum(np.cos(levels)))

    def observed(self, cond):
        self.calls['observed'].append(cond.copy())
        return np.float32(np.sin(cond).sum())

    def step(self, x, level, observed):
        self.calls['step'].append(x)
        return x * level + observed

    def counts(self):
        return {name: len(calls) for name, calls in self.calls.items()}


conditions = st.lists(st.sampled_from([0.0, -0.0, 1.0, 2.5, float('nan')]), min_size=1, max_size=2)


@given(st.lists(st.tuples(st.sampled_from([1.0, 0.5]), conditions), max_size=40))
def test_with_and_without_keeping_every_output_has_the_same_bits(calls):
    kept, plain = Counting(), Counting()
    plain.net.keeps = False
    x = np.ones((2, 1), np.float32)
    for level, values in calls:
        cond = np.array(values, np.float32)
        ours, theirs = (one.net(x, level, cond) for one in (kept, plain))
        np.testing.assert_array_equal(ours, theirs)
    changes = sum(not i or np.float32(calls[i - 1][1]).tobytes() != np.float32(values).tobytes()
                  for i, (_, values) in enumerate(calls))
    assert kept.counts() == {'level': len({level for level, _ in calls}), 'observed': changes,
                             'step': len(calls)}
    assert set(plain.counts().values()) == {len(calls)}
    assert (kept.net.hits, kept.net.misses) == (len(calls) - changes, changes)


def test_a_condition_that_is_written_to_is_another_one():
    made, cond = Counting(), np.zeros(3, np.float32)
    first = made.net(np.ones((2, 1), np.float32), 1.0, cond)
    cond[:] = 1
    assert (made.net(np.ones((2, 1), np.float32), 1.0, cond) != first).all()


def test_levels_are_bounded(monkeypatch):
    monkeypatch.setattr(conditioned, 'LEVELS', 3)
    made, x, cond = Counting(), np.ones((2, 1), np.float32), np.zeros(3, np.float32)
    for number in range(20):
        made.net(x, float(number), cond, 0.5)
    assert len(made.net._levels) == 3
    made.net(x, 19.0, cond, 0.5)
    assert made.counts()['level'] == 20
    made.net(x, 19.0, cond, 0.6)  # the level that the step goes to is part of the key
    assert made.counts()['level'] == 21


def test_a_part_that_raises_leaves_nothing_behind():
    made, x, cond = Counting(), np.ones((2, 1), np.float32), np.zeros(3, np.float32)
    made.net(x, 1.0, cond)
    fine, made.net._observed = made.net._observed, None
    with pytest.raises(TypeError):
        made.net(x, 1.0, cond + 1)
    made.net._observed = fine
    np.testing.assert_array_equal(made.net(x, 1.0, cond + 1), Counting().net(x, 1.0, cond + 1))


def plans(engine, spec, keeps, stamps):
    """Return the chunks of plans from these stamps, two of each."""
    loop = PolicyLoop(spec, engine, LoopSettings(min_steps=4, max_steps=4), ManualClock())
    loop.keep(CacheRules(condition=keeps, tiles=loop.tiling.rules))
    made = []
    for stamp in stamps:
        feed_large(loop, stamp)
        made += [loop.plan(stamp + k).chunk.actions for k in range(2)]
    return np.array(made), loop


def feed_large(loop, stamp):
    for camera in loop.spec.cameras:
        loop.observe_frame(frame_at(stamp, camera.name, shape=(45, 57)))
    loop.observe_state(stamp, stamp, state_at(stamp))


@pytest.mark.parametrize('model', MODELS)
@pytest.mark.parametrize('engine', ['onnxruntime', 'torch'])
def test_plans_with_and_without_keeping_have_the_same_bits(exported, model, engine):
    bundle, _ = exported(model, 'edm')
    made, stamps = load_engine(bundle, engine), range(START, START + 4 * STEP, STEP)
    ours, loop = plans(made, bundle.spec, True, stamps)
    # of the two plans of an observation all calls but the first found its part
    assert (made.conditioned.hits, made.conditioned.misses) == (4 * (2 * 4 - 1), 4)
    assert loop.cache_figures()['condition.hit_ratio'] == 7 / 8
    theirs, _ = plans(made, bundle.spec, False, stamps)
    assert made.conditioned.misses == 4 + 4 * 8
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize('model', MODELS)
def test_the_parts_together_are_the_network(model):
    torch = pytest.importorskip('torch', reason='the networks are torch modules')
    from diffusion_policy_rt.model.policy import make_denoiser
    from diffusion_policy_rt.model.split import split

    precond = dataclasses.replace(tiny_spec().precond, stop_time=True)
    spec = tiny_spec(prefix=2, precond=precond)
    net = stirred(make_denoiser(spec, {**MODELS[model]['denoiser'], 'stop_time': True}))
    x, cond = torch.randn(3, 8, 2), torch.randn(3, spec.cond_dim)
    level, stop = torch.rand(3), torch.rand(3)
    with torch.no_grad():
        parts = split(net)
        made = parts.step(x, parts.level(level, stop), parts.observed(cond))
        expected = net(x, level, cond, stop)
    assert (made - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_the_parts_hold_no_weights_of_their_own(exported):
    bundle, _ = exported('keypoint_mlp', 'edm')
    onnx = pytest.importorskip('onnx', reason='graphs are looked into with onnx')
    for part in SPLIT:
        graph = onnx.load(str(bundle.path(f'{part}.onnx')), load_external_data=False).graph
        large = [i for i in graph.initializer if np.prod(i.dims) > 128]
        assert large and all(i.external_data for i in large)


def test_a_bundle_without_parts_runs_as_a_whole(exported):
    bundle, _ = exported('keypoint_mlp', 'edm')
    old = dataclasses.replace(bundle, files={
        name: entry for name, entry in bundle.files.items() if 'denoiser_' not in name})
    engines = [load_engine(one, 'onnxruntime') for one in (bundle, old)]
    assert engines[1].conditioned is None
    rng = np.random.default_rng(0)
    x, cond = rng.standard_normal((8, 2)), rng.standard_normal(bundle.spec.cond_dim, np.float32)
    ours, theirs = (engine.denoise(x, 1.0, cond) for engine in engines)
    np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max())


def test_a_plan_without_a_new_frame_is_called_cached():
    loop = make_loop(max_steps=2)
    feed(loop, START)
    assert loop.plan(START).rung == Rung.FRESH
    again = loop.plan(START + 1)
    assert again.rung == Rung.CACHED and loop.act(START + 1, again).rung == Rung.CACHED
    feed(loop, START + STEP)
    assert loop.plan(START + STEP).rung == Rung.FRESH
