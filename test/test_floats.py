"""fp8 and NVFP4: stored as torch rounded them, and run only by GPUs that have them."""

import numpy as np
import pytest
from fakes import MODELS
from hypothesis import given
from hypothesis import strategies as st
from test_quantize import feeds

torch = pytest.importorskip('torch', reason='the forms are simulated in torch')
onnx = pytest.importorskip('onnx')
onnxruntime = pytest.importorskip('onnxruntime')

from diffusion_policy_rt.engines import tensorrt_build  # noqa: E402
from diffusion_policy_rt.engines.bundle import WEIGHTS  # noqa: E402
from diffusion_policy_rt.engines.executed import GPU_TYPES, check_types  # noqa: E402
from diffusion_policy_rt.engines.load import load_engine  # noqa: E402
from diffusion_policy_rt.engines.parity import deviation  # noqa: E402
from diffusion_policy_rt.engines.torch_engine import load_policy  # noqa: E402
from diffusion_policy_rt.engines.torch_weights import E2M1, read_weights  # noqa: E402
from diffusion_policy_rt.engines.weights import BLOCK, read_header  # noqa: E402
from diffusion_policy_rt.errors import EngineError  # noqa: E402
from diffusion_policy_rt.model.policy import Policy  # noqa: E402
from diffusion_policy_rt.train.export import graphs  # noqa: E402
from diffusion_policy_rt.train.quantize import floats  # noqa: E402
from diffusion_policy_rt.train.quantize.float_graph import float_graph  # noqa: E402
from diffusion_policy_rt.train.quantize.run import write_float  # noqa: E402

PARTS = ('encoder_front', 'encoder_wrist', 'denoiser')
BOUNDS = {'fp8': 0.15, 'nvfp4': 0.6}
"""Relative error of a tiny random network's output: several times what was seen."""


class Nothing:
    """Compares nothing."""

    def measure(self, engine):
        return {}


@pytest.fixture(scope='module', params=floats.FORMS)
def form(request):
    return request.param


@pytest.fixture(scope='module', params=MODELS)
def made(request, form, exported, tmp_path_factory):
    """Return a bundle in the form, its report, and the fp32 one."""
    source, _ = exported(request.param, 'edm')
    recorded = {part: feeds(source.spec, part, 6) for part in PARTS}
    return (*write_float(source, recorded, form, tmp_path_factory.mktemp('float') / 'q', {},
                         Nothing()), source)


@given(st.lists(st.floats(-7, 7, width=32), min_size=1, max_size=40))
def test_a_4_bit_code_is_that_of_the_nearest_number(values):
    values = torch.tensor(values, dtype=torch.float32)
    grid = torch.tensor([*E2M1, *(-v for v in E2M1)])
    given_ = grid[floats.to_e2m1(values).long()]
    least = (values[:, None] - grid).abs().min(1).values
    assert torch.equal((given_ - values).abs(), least)


def test_ties_go_to_the_even_code():
    ties = floats.BETWEEN
    codes = floats.to_e2m1(torch.cat((ties, -ties)))
    assert codes.tolist() == [0, 2, 2, 4, 4, 6, 6, 8, 10, 10, 12, 12, 14, 14]


@given(st.integers(1, 4), st.integers(0, 2**31), st.floats(1e-3, 1e3))
def test_what_a_form_leaves_is_near(rows, seed, size):
    x = size * torch.from_numpy(np.random.default_rng(seed).standard_normal((rows, 3 * BLOCK)))
    x = x.float()
    for form, bound in (('fp8', 2**-4), ('nvfp4', 1 / 4)):
        kept = floats.rounded(x, form, floats.scale_of(x.abs().max(), form))
        # half a step of the largest binade of the block, and of E4M3's own scale
        largest = x.unflatten(-1, (-1, BLOCK)).abs().amax(-1, keepdim=True).expand(
            -1, -1, BLOCK).flatten(1)
        assert ((kept - x).abs() <= bound * largest).all()


def test_weights_are_stored_as_torch_rounded_them(made, form):
    bundle, report, source = made
    stored = read_header(bundle.path(WEIGHTS))[0]
    whole = read_weights(source.path(WEIGHTS), load_policy(source))
    back = read_weights(bundle.path(WEIGHTS), load_policy(source))
    quantized = [n for n, t in stored.items() if t.dtype == {'fp8': 'F8_E4M3', 'nvfp4': 'U8'}[form]
                 and n.startswith('denoiser') and n.endswith('weight')]
    assert len(quantized) >= 2 and report['forms'] == {'denoiser': form}
    for name, tensor in whole.items():
        error = float((back[name] - tensor).norm() / tensor.norm().clamp(min=1e-9))
        assert (0 < error < 0.2) if name in quantized else error == 0, name


def test_the_bundle_tells_how_far_it_may_be_from_the_fp32_networks(made, form):
    bundle, _, source = made
    worst, tolerance = deviation(bundle, load_engine(bundle, 'torch'))
    assert worst <= tolerance < 2 * BOUNDS[form]


def test_the_graph_holds_the_types_it_claims(made, form):
    graph = onnx.load(str(made[0].path('denoiser.onnx'))).graph
    kinds = {i.data_type for i in graph.initializer}
    assert {'fp8': onnx.TensorProto.FLOAT8E4M3FN,
            'nvfp4': onnx.TensorProto.FLOAT4E2M1}[form] in kinds
    assert not [n for n in graph.node if n.domain == 'dprt']
    layers = {n.name for n in graph.node if n.op_type == 'MatMul'}
    assert layers >= set(made[1]['layers_in_fp32']['denoiser'])


@pytest.mark.parametrize('model', MODELS)
def test_onnx_runtime_computes_what_torch_rounded(exported, tmp_path, model):
    _, policy = exported(model, 'edm')
    inputs, given_ = graphs(policy)['denoiser'][1], feeds(policy.spec, 'denoiser', 6)
    rounded, _ = floats.quantize_policy(policy, given_, list(inputs), 'fp8')
    graph = float_graph(rounded.denoiser, inputs, 'output', 'fp8')
    onnx.save(graph, str(tmp_path / 'g.onnx'))
    options = onnxruntime.SessionOptions()  # its optimisers spoil graphs of fp8
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(tmp_path / 'g.onnx'), options)
    for feed in given_:
        with torch.no_grad():
            expected = rounded.denoiser(*(torch.from_numpy(feed[n]) for n in inputs)).numpy()
        np.testing.assert_allclose(session.run(None, feed)[0], expected, rtol=0, atol=1e-5)


def test_a_cpu_and_a_gpu_that_lacks_the_type_refuse_it(made, form):
    with pytest.raises(EngineError, match=f'denoiser is in {form}, which a CPU does not'):
        load_engine(made[0], 'onnxruntime')
    major, minor = GPU_TYPES[form]
    check_types(made[0], (major, minor))
    with pytest.raises(EngineError, match='which a GPU of 8.0 does not multiply'):
        check_types(made[0], (8, 0))


def test_layers_that_do_not_fit_blocks_stay_in_fp32(exported):
    spec, config = exported('keypoint_mlp', 'edm')[0].spec, MODELS['keypoint_mlp']
    policy = Policy(spec, config | {'denoiser': config['denoiser'] | {'width': 40}})
    inputs = ['x', 'c_noise', 'cond']
    _, high = floats.quantize_policy(policy, feeds(spec, 'denoiser', 2), inputs, 'nvfp4')
    assert 'layers.0.second' in high  # 40 is no whole number of blocks
    _, high = floats.quantize_policy(policy, feeds(spec, 'denoiser', 2), inputs, 'fp8')
    assert 'layers.0.second' not in high


def test_tensorrt_builds_it_for_gpus_that_have_the_type(made, form):
    rtx = pytest.importorskip('tensorrt_rtx', reason='pip install tensorrt-rtx builds engines '
                              'ahead of time, without a GPU')
    target = {'fp8': 'SM89', 'nvfp4': 'SM120'}[form]
    assert tensorrt_build.build(rtx, made[0].path('denoiser.onnx'), rtx.Logger(),
                                target=target)
    with pytest.raises(EngineError, match='cannot build'):
        tensorrt_build.build(rtx, made[0].path('denoiser.onnx'), rtx.Logger(), target='SM86')
