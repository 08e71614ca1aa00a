"""A lowered layer is the layer: over all shapes, in every position, in a graph and on disk."""

import numpy as np
import pytest
from fakes import MODELS
from hypothesis import assume, given
from hypothesis import strategies as st

torch = pytest.importorskip('torch', reason='the layers are torch modules')

from diffusion_policy_rt.engines.torch_engine import load_policy  # noqa: E402
from diffusion_policy_rt.model.blocks import PositionNorm  # noqa: E402
from diffusion_policy_rt.model.lower import (  # noqa: E402
    MatrixProduct, from_matrix, lower, raise_weight, taps, to_matrix)
from diffusion_policy_rt.model.rows import RowNorm, VectorMish  # noqa: E402
from diffusion_policy_rt.model.unet import ConditionalUnet1D  # noqa: E402

sizes = st.integers(1, 7)


def close(a, b):
    assert a.shape == b.shape
    assert (a - b).abs().max() <= 1e-5 * b.abs().max().clamp(min=1e-3)


def convolution(transposed, inputs, outputs, kernel, stride, padding, dilation, extra, bias):
    options = {'stride': stride, 'padding': padding, 'dilation': dilation, 'bias': bias}
    if transposed:
        return torch.nn.ConvTranspose1d(inputs, outputs, kernel, output_padding=extra, **options)
    return torch.nn.Conv1d(inputs, outputs, kernel, **options)


convolutions = st.builds(convolution, st.booleans(), sizes, sizes, st.integers(1, 6),
                         st.integers(1, 4), st.integers(0, 4), st.integers(1, 3), st.just(0),
                         st.booleans())


def outputs_of(layer, x):
    """Run the layer; shapes that torch itself refuses are none."""
    try:
        with torch.no_grad():
            return layer(x)
    except RuntimeError:
        assume(False)


@given(convolutions, st.integers(1, 16), st.integers(1, 3))
def test_a_convolution_of_any_shape_is_its_gather_and_product(layer, positions, batch):
    x = torch.randn(batch, layer.in_channels, positions)
    expected = outputs_of(layer, x)
    with torch.no_grad():
        close(MatrixProduct(layer)(x), expected)


@given(st.integers(2, 4), st.data())
def test_output_padding_of_a_transposed_convolution_is_kept(stride, data):
    extra = data.draw(st.integers(0, stride - 1))
    layer = convolution(True, 3, 4, 4, stride, 1, 1, extra, True)
    x = torch.randn(2, 3, 5)
    with torch.no_grad():
        close(MatrixProduct(layer)(x), layer(x))


@given(sizes, sizes, st.booleans(), st.lists(st.integers(1, 4), max_size=2))
def test_a_linear_layer_is_its_product(inputs, outputs, bias, leading):
    layer = torch.nn.Linear(inputs, outputs, bias)
    x = torch.randn(*leading, inputs)
    with torch.no_grad():
        close(MatrixProduct(layer)(x), layer(x))


@given(convolutions)
def test_the_matrix_goes_back_to_the_layer_s_own_weight(layer):
    assert torch.equal(from_matrix(layer, to_matrix(layer, layer.weight)), layer.weight)


@given(convolutions, st.integers(1, 16))
def test_every_tap_reads_an_input_or_the_zero_behind_the_last(layer, positions):
    assume(outputs_of(layer, torch.zeros(1, layer.in_channels, positions)) is not None)
    index = taps(layer, positions)
    assert index.shape[1] == layer.kernel_size[0]
    assert index.min() >= 0 and index.max() <= positions


@pytest.mark.parametrize('options', [
    {'groups': 2}, {'padding_mode': 'circular', 'padding': 1}, {'padding': 'same'}])
def test_what_is_no_single_product_is_left_as_it_is(options):
    net = torch.nn.Sequential(torch.nn.Conv1d(4, 4, 3, **options))
    assert not isinstance(lower(net)[0], MatrixProduct)


def test_the_u_net_keeps_no_convolution_and_gives_the_same_outputs():
    torch.manual_seed(0)
    net = ConditionalUnet1D(2, 16, 6, (16, 32, 64), groups=4, step_dim=16).eval()
    x, level, cond = torch.randn(2, 16, 2), torch.tensor([3.0, 70]), torch.randn(2, 6)
    with torch.no_grad():
        expected, weights = net(x, level, cond), dict(net.state_dict())
        lowered = lower(net)
        close(lowered(x, level, cond), expected)
    assert not [m for m in lowered.modules()
                if isinstance(m, (torch.nn.Conv1d, torch.nn.ConvTranspose1d, torch.nn.Linear,
                                  torch.nn.GroupNorm))]
    fresh = ConditionalUnet1D(2, 16, 6, (16, 32, 64), groups=4, step_dim=16)
    raised = {name: raise_weight(fresh, name, value)
              for name, value in lowered.state_dict().items()}
    assert raised.keys() == weights.keys()
    assert all(torch.equal(raised[name], weights[name]) for name in weights)


@pytest.mark.parametrize('model', MODELS)
def test_a_bundle_s_graphs_are_lowered_and_its_weights_read_back_as_they_were(exported, model):
    onnx = pytest.importorskip('onnx')
    bundle, policy = exported(model, 'edm')
    graph = onnx.load(str(bundle.path('denoiser.onnx')), load_external_data=False).graph
    kinds = {node.op_type for node in graph.node}
    assert 'MatMul' in kinds and not kinds & {'Conv', 'ConvTranspose', 'Gemm'}
    read = load_policy(bundle).state_dict()
    assert all(torch.equal(read[name], tensor) for name, tensor in policy.state_dict().items())


@pytest.mark.parametrize('model', MODELS)
def test_every_large_tensor_of_a_graph_lies_in_the_weights_file(exported, model):
    onnx = pytest.importorskip('onnx')
    bundle, _ = exported(model, 'edm')
    for name in bundle.files:
        if name.endswith('.onnx'):
            graph = onnx.load(str(bundle.path(name)), load_external_data=False).graph
            inline = [i.name for i in graph.initializer if not i.external_data
                      and np.prod(i.dims) * 4 >= 256]
            assert not inline


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=20))
def test_the_vectorised_mish_is_mish_for_every_value(values):
    x = torch.tensor(values)
    expected = torch.nn.functional.mish(x)
    assert ((VectorMish()(x) - expected).abs() <= 1e-5 * expected.abs() + 2e-6).all()


@given(sizes, sizes, st.integers(2, 16), st.integers(1, 3))
def test_the_norm_by_rows_is_the_group_norm(groups, width, positions, batch):
    norm = PositionNorm(groups, groups * width)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x = torch.randn(batch, groups * width, positions)
    with torch.no_grad():
        close(RowNorm(norm)(x), norm(x))
