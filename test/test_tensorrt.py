"""What can be known of TensorRT without a GPU: the graphs are read and built ahead of time."""

import pytest
from fakes import MODELS

pytest.importorskip('torch', reason='graphs are exported from torch')

from diffusion_policy_rt.engines import load, tensorrt_build, tensorrt_engine  # noqa: E402
from diffusion_policy_rt.engines.load import load_engine  # noqa: E402
from diffusion_policy_rt.errors import EngineError  # noqa: E402


@pytest.fixture(scope='module')
def rtx():
    """Return TensorRT for RTX, which has the interface of TensorRT 11 and builds without a GPU."""
    return pytest.importorskip('tensorrt_rtx', reason='pip install tensorrt-rtx builds engines '
                               'ahead of time, without a GPU')


@pytest.mark.parametrize('part', ['denoiser', 'encoder_front'])
@pytest.mark.parametrize('model', MODELS)
def test_the_exported_graphs_are_built(exported, rtx, model, part):
    bundle, _ = exported(model, 'edm')
    plan = tensorrt_build.build(rtx, bundle.path(f'{part}.onnx'), rtx.Logger())
    assert len(plan) > 1000


def test_a_graph_of_onnxruntime_s_own_operators_is_refused_with_the_cure(rtx, tmp_path):
    onnx = pytest.importorskip('onnx')
    ends = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1, 4]) for n in 'xy']
    node = onnx.helper.make_node('DynamicQuantizeMatMul', ['x', 'w', 's'], ['y'],
                                 domain='com.microsoft')
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([node], 'g', ends[:1], ends[1:])),
              str(tmp_path / 'denoiser.onnx'))
    with pytest.raises(EngineError, match='cannot read denoiser.onnx.*dprt quantize') as caught:
        tensorrt_build.build(rtx, tmp_path / 'denoiser.onnx', rtx.Logger())
    assert '\n' not in str(caught.value)


def test_without_the_package_or_a_gpu_the_engine_says_so(exported, monkeypatch):
    monkeypatch.setattr(load, 'installed', lambda: [*load.ENGINES])
    with pytest.raises(EngineError, match='pypi.nvidia.com|needs an NVIDIA GPU') as caught:
        load_engine(exported('keypoint_mlp', 'edm')[0], 'tensorrt')
    assert '\n' not in str(caught.value)


class Recorded:
    """Stands for TensorRT 10: records how a network is made, and fails to build."""

    class NetworkDefinitionCreationFlag:
        STRONGLY_TYPED = 1

    class MemoryPoolType:
        WORKSPACE = 'workspace'

    def __init__(self, readable=True):
        self.readable, self.flags, self.config = readable, None, None
        self.num_errors = 0

    def Builder(self, logger):  # noqa: N802
        return self

    def create_network(self, flags):
        self.flags = flags
        return 'network'

    def OnnxParser(self, network, logger):  # noqa: N802
        return self

    def parse_from_file(self, path):
        return self.readable

    def create_builder_config(self):
        self.config = type('Config', (), {'set_memory_pool_limit': lambda *args: None})()
        return self.config

    def build_serialized_network(self, network, config):
        return None


def test_version_10_is_asked_for_strong_types_and_a_single_stream(tmp_path):
    trt = Recorded()
    with pytest.raises(EngineError, match='cannot build denoiser.onnx'):
        tensorrt_build.build(trt, tmp_path / 'denoiser.onnx', None)
    assert trt.flags == 1 << 1 and trt.config.max_aux_streams == 0


def test_a_graph_that_cannot_be_read_is_told_even_without_a_reason(tmp_path):
    with pytest.raises(EngineError, match='cannot read denoiser.onnx: unknown reason'):
        tensorrt_build.build(Recorded(readable=False), tmp_path / 'denoiser.onnx', None)


def test_a_gpu_s_engine_is_keyed_by_graph_weights_version_gpu_driver_and_options(
        exported, monkeypatch):
    device = type('Device', (), {'name': 'H200', 'major': 9, 'minor': 0})
    monkeypatch.setattr(tensorrt_engine.torch.cuda, 'get_device_properties', lambda _: device)
    trt = type('trt', (), {'__version__': '11.4.0'})
    bundle, _ = exported('keypoint_mlp', 'edm')
    facts = tensorrt_engine.facts(trt, bundle, 'denoiser')
    assert set(facts) == {'graph', 'weights', 'tensorrt', 'gpu', 'driver', 'cuda', 'options'}
    assert facts['gpu'] == 'H200 9.0' and facts['tensorrt'] == '11.4.0'
    assert facts['graph'] != tensorrt_engine.facts(trt, bundle, 'encoder_front')['graph']
