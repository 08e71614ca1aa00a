"""A compacted graph computes the same by the same products, and is smaller."""

import copy
from dataclasses import replace
from functools import cache, partial

import numpy as np
import pytest
from fakes import MODELS

torch = pytest.importorskip('torch', reason='graphs are exported from torch modules')
onnx = pytest.importorskip('onnx', reason='graphs are rewritten by onnx')

from diffusion_policy_rt.engines.bundle import SPLIT  # noqa: E402
from diffusion_policy_rt.engines.executed import FLOAT_OPS, INT8_OPS  # noqa: E402
from diffusion_policy_rt.engines.onnx_engine import open_graph  # noqa: E402
from diffusion_policy_rt.model.lower import lower  # noqa: E402
from diffusion_policy_rt.train.compact import compact  # noqa: E402
from diffusion_policy_rt.train.export import (  # noqa: E402
    export_graph, graphs, split_graphs)
from diffusion_policy_rt.model.split import split  # noqa: E402
from diffusion_policy_rt.train.quantize.forms import FP32, Form, quantize  # noqa: E402
from diffusion_policy_rt.train.shared import name_products, own_weights  # noqa: E402

CASES = [('encoder_front', FP32), ('encoder_front', Form('static')), ('denoiser', FP32),
         ('denoiser', Form('dynamic')), ('denoiser', Form('weight-only')),
         ('denoiser', Form('static')), (SPLIT[1], FP32), (SPLIT[2], Form('dynamic'))]


def feed(session, seed):
    rng = np.random.default_rng(seed)
    return {i.name: rng.standard_normal(i.shape).astype(np.float32)
            for i in session.get_inputs()}


@pytest.fixture(scope='module')
def graph(exported, tmp_path_factory):
    """Return a function (model, part) -> its graph as the exporter writes it, layers named."""
    folder = tmp_path_factory.mktemp('graphs')

    @cache
    def parts(model):
        policy = copy.deepcopy(exported(model, 'edm')[1])
        in_parts = split(policy.denoiser)
        for module in in_parts:
            lower(module)
        return graphs(policy) | split_graphs(policy.spec, in_parts)

    @cache
    def get(model, part):
        path = folder / f'{model}_{part}.onnx'
        export_graph(*parts(model)[part], path)
        found = onnx.load(str(path))
        own_weights(found)
        name_products(found)
        return found

    return get


def opened(model, path):
    onnx.save(model, str(path))
    return open_graph(path, 1)


def told(model):
    """Return the bytes of a graph without those of its weights."""
    return model.ByteSize() - sum(i.ByteSize() for i in model.graph.initializer)


@pytest.mark.parametrize('part, form', CASES, ids=str)
@pytest.mark.parametrize('model', MODELS)
def test_a_compacted_graph_has_the_bits_and_the_audit_of_the_whole_and_is_smaller(
        graph, tmp_path, model, part, form):
    whole = graph(model, part)
    before, _ = opened(whole, tmp_path / 'fp32.onnx')
    whole = quantize(whole, form, [feed(before, seed) for seed in range(4)])
    less = onnx.ModelProto()
    less.CopyFrom(whole)
    compact(less)
    products = {node.name for node in whole.graph.node if node.op_type == 'Conv'}
    (before, ran), (after, audited) = (opened(m, tmp_path / f'{i}.onnx')
                                       for i, m in enumerate((whole, less)))
    for seed in range(3):
        given = feed(before, seed)
        for a, b in zip(before.run(None, given), after.run(None, given)):
            np.testing.assert_array_equal(a, b)
    for layer, was in zip(audited, ran, strict=True):
        if was.name.endswith('_nchwc'):  # called by what it made, not by its layer
            assert layer.name in products
            was = replace(was, name=layer.name)
        assert layer == was
    assert told(less) < 0.7 * told(whole)
    assert [i.name for i in less.graph.initializer] == [i.name for i in whole.graph.initializer]
    again = less.SerializeToString()
    compact(less)
    assert less.SerializeToString() == again


def test_new_names_are_not_those_of_what_keeps_its_own():
    info = partial(onnx.helper.make_tensor_value_info, elem_type=onnx.TensorProto.FLOAT,
                   shape=[1])
    nodes = [onnx.helper.make_node('Add', ['0', '2'], ['long'], 'first'),
             onnx.helper.make_node('Neg', ['long'], ['longer'], 'second'),
             onnx.helper.make_node('Add', ['long', 'longer'], ['1'], 'third')]
    model = onnx.helper.make_model(onnx.helper.make_graph(
        nodes, 'g', [info('0')], [info('1')],
        [onnx.numpy_helper.from_array(np.ones(1, np.float32), '2')]))
    compact(model)
    onnx.checker.check_model(model, full_check=True)
    assert [list(n.output) for n in model.graph.node] == [['3'], ['4'], ['1']]
    assert not any(n.name for n in model.graph.node)


@pytest.mark.parametrize('model', MODELS)
def test_the_graphs_of_a_bundle_are_compact_and_name_their_products(exported, model):
    bundle = exported(model, 'edm')[0]
    names = [name for name in bundle.files if name.endswith('.onnx')]
    assert 'denoiser.onnx' in names
    for name in names:
        graph = onnx.load(str(bundle.path(name)), load_external_data=False).graph
        assert not graph.value_info
        for node in graph.node:
            assert bool(node.name) == (node.op_type in FLOAT_OPS | INT8_OPS)
