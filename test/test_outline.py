"""Graphs of weights that lie in files: read by reference, written at any size, shared by place."""

import numpy as np
import pytest

pytest.importorskip('torch', reason='bundles are exported from torch modules')
onnx = pytest.importorskip('onnx', reason='graphs are rewritten by onnx')

from fakes import MODELS  # noqa: E402
from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from diffusion_policy_rt.engines.bundle import WEIGHTS  # noqa: E402
from diffusion_policy_rt.engines.onnx_engine import make_session  # noqa: E402
from diffusion_policy_rt.engines.weights import StoredTensors, read_header  # noqa: E402
from diffusion_policy_rt.train import export  # noqa: E402
from diffusion_policy_rt.train.outline import (  # noqa: E402
    array, content, hold, place, read_outline, save_graph)
from diffusion_policy_rt.train.shared import Weights, refer  # noqa: E402

BEYOND = 5 * 2**30
"""An offset that 32 bits do not hold."""


def product(weight, name='layer.weight'):
    given_, taken = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, size])
                     for n, size in zip('xy', weight.shape))
    return helper.make_model(helper.make_graph(
        [helper.make_node('MatMul', ['x', name], ['y'], 'p')], 'g', [given_], [taken],
        [numpy_helper.from_array(weight, name)]),
        opset_imports=[helper.make_opsetid('', 17)], ir_version=9)


def ran(path, rows):
    x = np.ones((1, rows), np.float32)
    return make_session(path, 1).run(None, {'x': x})[0]


@given(rows=st.integers(1, 40), columns=st.integers(1, 40))
def test_a_graph_that_is_written_beside_its_weights_is_the_one_that_held_them(
        tmp_path_factory, rows, columns):
    folder = tmp_path_factory.mktemp('g')
    weight = np.random.default_rng(0).standard_normal((rows, columns)).astype(np.float32)
    graph = product(weight)
    before = graph.SerializeToString()
    save_graph(graph, folder / 'g.onnx')
    assert graph.SerializeToString() == before
    np.testing.assert_allclose(ran(folder / 'g.onnx', rows)[0], weight.sum(0), atol=1e-4)
    held, = read_outline(folder / 'g.onnx').graph.initializer
    np.testing.assert_array_equal(array(held), weight)
    assert bool(held.external_data) == (weight.nbytes >= 256)


def test_values_beyond_four_gigabytes_of_a_file_are_read_and_run(tmp_path):
    weight = np.arange(4096, dtype=np.float32).reshape(64, 64)
    with (tmp_path / WEIGHTS).open('wb') as file:  # a hole, which takes no room on the disk
        file.seek(BEYOND)
        file.write(weight.tobytes())
    graph = product(weight)
    place(graph.graph.initializer[0], WEIGHTS, BEYOND, weight.nbytes)
    (tmp_path / 'g.onnx').write_bytes(graph.SerializeToString())
    outline = read_outline(tmp_path / 'g.onnx')
    np.testing.assert_array_equal(array(outline.graph.initializer[0]), weight)
    np.testing.assert_allclose(ran(tmp_path / 'g.onnx', 64)[0], weight.sum(0))


def test_tensors_beyond_four_gigabytes_of_a_weights_file_are_read_one_by_one(tmp_path):
    path, weight = tmp_path / WEIGHTS, np.arange(100, dtype=np.float32).reshape(4, 25)
    header = (b'{"hole":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]},"far":{"dtype":"F32",'
              b'"shape":[4,25],"data_offsets":[%d,%d]}}' % (BEYOND, BEYOND, BEYOND, BEYOND + 400))
    with path.open('wb') as file:
        file.write(len(header).to_bytes(8, 'little') + header)
        file.seek(8 + len(header) + BEYOND)
        file.write(weight.tobytes())
    tensors = StoredTensors(path)
    np.testing.assert_array_equal(tensors['far'], weight)
    assert set(tensors) == set(read_header(path)[0]) and len(tensors) == 2


def in_files(graph, folder):
    """Write a graph as the exporter does above 2 GB: each tensor, also a small one, in a file."""
    for tensor in graph.graph.initializer:
        values = content(tensor)
        name = tensor.name.replace('/', '_')
        (folder / name).write_bytes(values)
        hold(tensor, b'')
        tensor.ClearField('raw_data')
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key='location', value=name)
    (folder / 'exported.onnx').write_bytes(graph.SerializeToString())
    return folder / 'exported.onnx'


def test_weights_that_the_exporter_put_into_files_are_those_of_the_weights_file(tmp_path):
    from safetensors.numpy import save_file
    weight = np.random.default_rng(0).standard_normal((20, 20)).astype(np.float32)
    unknown = np.full((1, 20), 3, np.float32)
    graph = product(weight)
    graph.graph.node.append(helper.make_node('Add', ['y', 'mask'], ['z'], 'add'))
    graph.graph.output[0].name = 'z'
    graph.graph.initializer.append(numpy_helper.from_array(unknown, 'mask'))
    (tmp_path / 'exported').mkdir()
    tensors = {'denoiser.layer.weight': weight, 'denoiser.other': weight[:3].copy()}
    save_file(tensors, tmp_path / WEIGHTS)
    weights = Weights('denoiser', read_header(tmp_path / WEIGHTS)[0], tensors)
    refer(in_files(graph, tmp_path / 'exported'), tmp_path / 'denoiser.onnx', weights)
    for name in ('exported.onnx', 'layer.weight', 'mask'):
        (tmp_path / 'exported' / name).unlink()
    made = onnx.load(str(tmp_path / 'denoiser.onnx'), load_external_data=False)
    where = {i.name: {e.key: e.value for e in i.external_data} for i in made.graph.initializer}
    assert where['layer.weight']['location'] == WEIGHTS and not where['mask']
    assert made.graph.node[0].name == 'layer'
    np.testing.assert_allclose(ran(tmp_path / 'denoiser.onnx', 20)[0], weight.sum(0) + 3,
                               atol=1e-5)


def test_a_network_above_the_limit_of_a_graph_leaves_no_other_files_in_its_bundle(
        exported, tmp_path, monkeypatch):
    real = export.export_graph

    def split_up(module, inputs, output, path, *more):
        real(module, inputs, output, path, *more)
        in_files(onnx.load(str(path)), path.parent).rename(path)

    expected, policy = exported('transformer', 'edm')
    monkeypatch.setattr(export, 'export_graph', split_up)
    bundle = export.export_bundle(policy, MODELS['transformer'], tmp_path / 'b', {})
    for name in expected.files:
        assert bundle.path(name).read_bytes() == expected.path(name).read_bytes(), name
    assert bundle.files.keys() == expected.files.keys()
