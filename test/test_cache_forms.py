"""Caches in every form that a bundle has here, on every engine: what they keep is true."""

import numpy as np
import pytest
from fakes import START, STEP, state_at
from test_quantize import feeds

from diffusion_policy_rt.engines.bundle import WEIGHTS, read_bundle
from diffusion_policy_rt.engines.caching import Caching
from diffusion_policy_rt.engines.load import installed, load_engine
from diffusion_policy_rt.engines.weights import read_header
from diffusion_policy_rt.ros.engine_process import EngineProcess
from diffusion_policy_rt.runtime.caches import CacheRules
from diffusion_policy_rt.runtime.clock import ManualClock
from diffusion_policy_rt.runtime.frame import Frame
from diffusion_policy_rt.runtime.loop import PolicyLoop
from diffusion_policy_rt.runtime.settings import LoopSettings
from diffusion_policy_rt.runtime.tiles import TileRule

pytest.importorskip('torch', reason='bundles are written by torch')
onnx = pytest.importorskip('onnx', reason='graphs are rewritten by onnx')

from diffusion_policy_rt.train.quantize.forms import FP32, Form  # noqa: E402
from diffusion_policy_rt.train.quantize.run import make_parts, reexport, write  # noqa: E402

PARTS = ('encoder_front', 'encoder_wrist', 'denoiser')
STATIC, DYNAMIC = Form('static'), Form('dynamic')
FORMS = {'fp32': (FP32, FP32), 'dynamic': (STATIC, DYNAMIC),
         'dynamic, unsigned': (FP32, Form('dynamic', False, 'uint8')),
         'weight-only': (STATIC, Form('weight-only')),
         'static': (Form('static', False), STATIC), 'dynamic encoder': (DYNAMIC, FP32)}
"""Of the encoders and of the denoiser."""
FRESH = {'keypoint_mlp': ('11', '00', '10', '01'), 'resnet_unet': (
    '11111111', '00000000', '10010110', '01101001'),
    'transformer': ('1' * 6, '010010', '0' * 6, '101101')}
CASES = [*(('keypoint_mlp', form) for form in FORMS), ('transformer', 'static'),
         ('resnet_unet', 'weight-only')]


@pytest.fixture(scope='module')
def made(exported, tmp_path_factory):
    """Return a function (model, form) -> a bundle with blocks for 4 steps."""
    folder, done = tmp_path_factory.mktemp('forms'), {}

    def source(model):
        plain, _ = exported(model, 'edm')
        branches = {'4': {'sigmas': list(plain.spec.schedule(4).sigmas),
                          'fresh': list(FRESH[model])}}
        return reexport(plain, folder / model, blocks=branches)

    def get(model, form):
        if (model, form) not in done:
            fp32 = done.setdefault((model, 'fp32'), None) or source(model)
            done[model, 'fp32'] = fp32
            if form != 'fp32':
                parts = make_parts(fp32, {name: feeds(fp32.spec, name, 8) for name in PARTS})
                for part in parts:
                    part.form = FORMS[form][part.name == 'denoiser']
                done[model, form] = write(fp32, parts, {part.name: [] for part in parts},
                                          folder / f'{model} {form}', {})
        return done[model, form]

    return get


@pytest.fixture
def load():
    """Return what loads an engine, or one in a process of its own, and ends that."""
    children = []

    def get(bundle, name):
        if name != 'process':
            return load_engine(bundle, name)
        children.append(EngineProcess(bundle, 'onnxruntime', 1))
        return children[-1]

    yield get
    for child in children:
        child.close()


def moving(stamp, name, shape=(45, 57)):
    """Return a frame in which a square moves over a still background."""
    rgb = np.random.default_rng(sum(name.encode())).integers(0, 256, (*shape, 3), dtype=np.uint8)
    place = 4 + 3 * ((stamp - START) // STEP)
    rgb[place:place + 8, 20:28] = 255
    return Frame(name, stamp, stamp, lambda: rgb)


def played(bundle, engine, rules, frames=3, steps=4):
    """Return the actions of two plans from each frame, and the loop."""
    settings = LoopSettings(min_steps=steps, max_steps=steps)
    loop = PolicyLoop(bundle.spec, engine, settings, ManualClock())
    loop.tiling.least = 0  # parts of images as small as these are encoded, too
    loop.tiling.prove()
    loop.keep(rules)
    actions = []
    for stamp in range(START, START + frames * STEP, STEP):
        for camera in bundle.spec.cameras:
            loop.observe_frame(moving(stamp, camera.name))
        loop.observe_state(stamp, stamp, state_at(stamp))
        for again in range(2):
            if not rules.condition:
                loop.cache.clear()
            actions.append(loop.plan(stamp + again).chunk.actions)
    return np.array(actions), loop


def rules_of(bundle, keeps, **more):
    """Return rules by which all exact caches are on or off."""
    return CacheRules(condition=keeps, tiles={
        camera.name: TileRule(keeps) for camera in bundle.spec.cameras}, **more)


def on_engines(cases):
    """Return the cases on each engine, in a process of its own for the small network alone."""
    return [(*case, engine) for case in cases for engine in (*installed(), 'process')
            if engine != 'tensorrt' and (engine != 'process' or case[0] == 'keypoint_mlp')]


@pytest.mark.parametrize('model, form, engine', on_engines(CASES))
def test_exact_caches_change_no_bit_of_an_action(made, load, model, form, engine):
    bundle = made(model, form)
    runs = load(bundle, engine)
    ours, loop = played(bundle, runs, rules_of(bundle, True))
    told = loop.cache_figures()
    assert told['condition.hits'] == 3 * (2 * 4 - 1)
    in_parts = model != 'resnet_unet' and engine != 'torch' and form != 'dynamic encoder'
    assert loop.tiling.exact == (dict.fromkeys(('front', 'wrist'), True) if in_parts else {})
    assert not in_parts or told['tiles.front.patched'] == told['tiles.wrist.patched'] == 2
    theirs, _ = played(bundle, runs, rules_of(bundle, False))
    assert runs.conditioned.hits == told['condition.hits']  # nothing more was kept
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize('model, form', CASES)
def test_blocks_are_kept_in_every_form_and_alike_on_every_engine(made, load, model, form):
    bundle, found, fresh = made(model, form), {}, ''.join(FRESH[model])
    for name in ('onnxruntime', 'torch', *(['process'] if model == 'keypoint_mlp' else [])):
        engine = load(bundle, name)
        found[name] = played(bundle, engine, rules_of(bundle, True, blocks=True), frames=1)[0]
        assert engine.blocks == {'computed': 2 * fresh.count('1'), 'kept': 2 * fresh.count('0')}
        found[name, 'all'] = played(bundle, engine, rules_of(bundle, True), frames=1)[0]
    np.testing.assert_array_equal(found.get('process', found['onnxruntime']), found['onnxruntime'])
    off, usual = (np.abs(found[a] - found[b]).mean() for a, b in (
        ('onnxruntime', 'torch'), (('onnxruntime', 'all'), ('torch', 'all'))))
    # kept branches err as 8-bit activations do, and no more
    assert off < 5 * usual + 1e-6
    assert np.abs(found['onnxruntime'] - found['onnxruntime', 'all']).max() > 1e-4


@pytest.mark.parametrize('model, form', CASES)
def test_no_weight_is_stored_twice_whatever_reads_it(made, model, form):
    bundle = made(model, form)
    within = read_header(bundle.path(WEIGHTS))[0].values()
    for name in (name for name in bundle.files if name.endswith('.onnx')):
        graph = onnx.load(str(bundle.path(name)), load_external_data=False).graph
        assert all(np.prod(i.dims) < 300 for i in graph.initializer if not i.external_data)
        for told in ({e.key: e.value for e in i.external_data} for i in graph.initializer):
            first, size = int(told.get('offset', -1)), int(told.get('length', 0))
            assert not told or any(tensor.offset <= first and first + size <= (
                tensor.offset + tensor.length) for tensor in within)
    assert bundle.blocks['4']['fresh'] == list(FRESH[model])


@pytest.mark.parametrize('model, form', [case for case in CASES if 'encoder' not in case[1]])
def test_layers_that_were_split_keep_their_names_and_their_type(made, model, form):
    bundle = made(model, form)
    engine, whole = load_engine(bundle, 'onnxruntime'), onnx.load(
        str(bundle.path('denoiser.onnx')), load_external_data=False).graph
    ran = {layer.name: layer.dtype for layer in engine.executed['denoiser']}
    stored = read_header(bundle.path(WEIGHTS))[0]
    layers = {name.removeprefix('denoiser.').removesuffix('.weight') for name, tensor in (
        stored.items()) if name.startswith('denoiser.') and name.endswith('.weight')
        and len(tensor.shape) == 2}
    assert whole.node and layers <= ran.keys()
    assert {ran[name] for name in layers} == {'float32' if form == 'fp32' else 'int8'}


def test_a_layer_that_stays_in_fp32_does_so_in_every_graph(made, tmp_path):
    source = made('keypoint_mlp', 'fp32')
    parts = make_parts(source, {name: feeds(source.spec, name, 2) for name in PARTS})
    parts[2].form = DYNAMIC
    keep = {name: ['layers.1.film.1'] if name == 'denoiser' else [] for name in PARTS}
    bundle = write(source, parts, keep, tmp_path / 'q', {})
    for graph, splits in (('denoiser_level', 1), ('denoiser_observed', 1), ('denoiser_step', 0)):
        kinds = {i.name: i.data_type for i in onnx.load(
            str(bundle.path(f'{graph}.onnx'))).graph.initializer}
        assert sum('products.1.weight' in name and kind == onnx.TensorProto.FLOAT
                   for name, kind in kinds.items()) == splits
        assert not any('products.0.weight' in name and kind == onnx.TensorProto.FLOAT
                       and not name.endswith('scale') for name, kind in kinds.items())


# -- what is told -------------------------------------------------------------------------------


class Plain:
    """An engine that keeps nothing, as TensorRT's."""

    name = 'tensorrt'


@pytest.mark.parametrize('model, form', [('keypoint_mlp', form) for form in FORMS])
def test_what_can_be_kept_is_told_and_why_the_rest_is_not(made, load, model, form):
    bundle = made(model, form)
    engine = load(bundle, 'onnxruntime')
    loop = played(bundle, engine, rules_of(bundle, True), frames=1)[1]
    told = Caching.of(bundle, engine, loop.tiling.exact)
    assert told.condition and told.blocks == (4,)
    whole = form == 'dynamic encoder'
    assert told.tiles == ({} if whole else {'front': True, 'wrist': True})
    assert [note.split(':')[0] for note in told.notes] == (
        ['tiles of front', 'tiles of wrist'] if whole else [])
    asked = CacheRules(blocks=True, tiles={'front': TileRule(True, 6.0), 'wrist': TileRule(True)})
    assert len(told.in_vain(asked)) == whole
    none = Caching.of(bundle, Plain(), {})
    assert none.in_vain(asked) == [
        'cache: blocks: tensorrt computes all branches in every call',
        'cache: tiles of front: tensorrt encodes its images whole']
    assert none.in_vain(rules_of(bundle, True)) == [] and len(none.notes) == 4


def test_a_bundle_without_a_schedule_says_what_makes_one(exported):
    bundle = exported('keypoint_mlp', 'edm')[0]
    (told,) = Caching.of(bundle, load_engine(bundle, 'onnxruntime'), {}).in_vain(
        CacheRules(blocks=True))
    assert 'dprt cache' in told


# -- written anew -------------------------------------------------------------------------------


def test_schedules_stay_with_their_weights(made, tmp_path):
    bundle = made('keypoint_mlp', 'fp32')
    again = reexport(bundle, tmp_path / 'again')
    assert again.blocks == read_bundle(bundle.folder).blocks != {}
    plans = [played(b, load_engine(b, 'onnxruntime'), rules_of(b, True, blocks=True))[0]
             for b in (bundle, again)]
    np.testing.assert_array_equal(*plans)
