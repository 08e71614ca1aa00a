"""TensorRT's 8-bit form: symmetric, explicit, stored in int8, and what torch computed."""

import copy

import numpy as np
import pytest
from fakes import MODELS
from test_quantize import feeds

torch = pytest.importorskip('torch', reason='modelopt quantizes torch modules')
onnx = pytest.importorskip('onnx')
pytest.importorskip('modelopt.torch.quantization', reason='modelopt is not installed')

from diffusion_policy_rt.engines import tensorrt_build  # noqa: E402
from diffusion_policy_rt.engines.bundle import WEIGHTS  # noqa: E402
from diffusion_policy_rt.engines.load import load_engine  # noqa: E402
from diffusion_policy_rt.engines.onnx_engine import make_session  # noqa: E402
from diffusion_policy_rt.engines.parity import deviation  # noqa: E402
from diffusion_policy_rt.engines.torch_engine import TorchNetworks  # noqa: E402
from diffusion_policy_rt.engines.weights import read_header  # noqa: E402
from diffusion_policy_rt.errors import EngineError  # noqa: E402
from diffusion_policy_rt.train.export import export_bundle  # noqa: E402
from diffusion_policy_rt.train.quantize import qdq  # noqa: E402
from diffusion_policy_rt.train.quantize.choose import relative_error  # noqa: E402
from diffusion_policy_rt.train.quantize.write import write_quantized  # noqa: E402

PARTS = ('encoder_front', 'encoder_wrist', 'denoiser')


@pytest.fixture(scope='module', params=MODELS)
def made(request, exported, tmp_path_factory):
    """Return a bundle in TensorRT's form, the networks it computes as, and the fp32 policy."""
    folder, (_, policy) = tmp_path_factory.mktemp('qdq'), exported(request.param, 'edm')
    source = export_bundle(policy, MODELS[request.param], folder / 'fp32', {}, products=False)
    quantized = qdq.quantize_policy(policy, {
        part: feeds(policy.spec, part, 8) for part in PARTS})
    bundle = write_quantized(source, qdq.qdq_graphs(quantized), dict.fromkeys(PARTS, qdq.DTYPE),
                             folder / 'int8', {}, TorchNetworks(quantized))
    return bundle, quantized, policy


@pytest.mark.parametrize('part', PARTS)
def test_the_graph_computes_what_torch_computed_with_its_quantizers(made, part):
    bundle, quantized, _ = made
    session = make_session(bundle.path(f'{part}.onnx'), 1)
    module = (quantized.denoiser if part == 'denoiser'
              else quantized.encoders[part.removeprefix('encoder_')])
    for feed in feeds(bundle.spec, part, 3):
        inputs = [torch.from_numpy(feed[i.name]) for i in session.get_inputs()]
        with torch.no_grad():
            expected = module(*inputs).numpy()
        assert relative_error(session.run(None, feed)[0], expected) < 0.02


def test_quantizers_are_symmetric_and_sensitive_layers_have_none(made):
    bundle, _, policy = made
    graph = onnx.load(str(bundle.path('denoiser.onnx'))).graph
    held = {i.name: i for i in graph.initializer}
    constants = {n.output[0]: onnx.numpy_helper.to_array(n.attribute[0].t)
                 for n in graph.node if n.op_type == 'Constant'}
    quantizers = [n for n in graph.node if n.op_type == 'QuantizeLinear']
    assert quantizers and not any(np.any(constants[n.input[2]]) for n in quantizers)
    assert not [n for n in quantizers if n.input[0] in held]  # weights are quantized already
    stored = read_header(bundle.path(WEIGHTS))[0]
    for name in qdq.kept(policy.denoiser):
        assert stored[f'denoiser.{name}.weight'].dtype == 'F32'
    assert sum(t.dtype == 'I8' for t in stored.values()) >= 4


def test_the_bundle_tells_how_far_it_may_be_from_the_fp32_networks(made):
    bundle, quantized, policy = made
    worst, tolerance = deviation(bundle, TorchNetworks(quantized))
    assert 0 < worst <= tolerance < 0.5
    assert deviation(bundle, TorchNetworks(policy))[0] < 1e-4


def test_layers_of_equal_weights_are_each_stored_in_int8(exported):
    policy = copy.deepcopy(exported('keypoint_mlp', 'edm')[1])
    policy.denoiser.layers[1].load_state_dict(policy.denoiser.layers[0].state_dict())
    graph = qdq.qdq_graphs(qdq.quantize_policy(policy, {
        part: feeds(policy.spec, part, 2) for part in PARTS}))['denoiser'].graph
    held = {i.name for i in graph.initializer}
    assert {f'layers.{i}.first.weight_quantized' for i in range(2)} <= held


def test_torch_runs_it_dequantized(made):
    bundle, _, _ = made
    worst, tolerance = deviation(bundle, load_engine(bundle, 'torch'))
    assert worst <= tolerance


def test_onnxruntime_would_run_it_in_fp32_and_refuses(made):
    with pytest.raises(EngineError, match='stored in 8 bits and'):
        load_engine(made[0], 'onnxruntime')


@pytest.mark.parametrize('part', PARTS)
def test_tensorrt_builds_it(made, part):
    rtx = pytest.importorskip('tensorrt_rtx', reason='pip install tensorrt-rtx builds engines '
                              'ahead of time, without a GPU')
    assert tensorrt_build.build(rtx, made[0].path(f'{part}.onnx'), rtx.Logger())
