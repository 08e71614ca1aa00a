"""Quantized graphs compute what they should, in the type that they claim, from what is stored."""

import copy
import json

import numpy as np
import pytest
from fakes import MODELS
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip('torch', reason='quantizing starts from torch modules')
onnx = pytest.importorskip('onnx', reason='graphs are rewritten by onnx')

from safetensors.numpy import load_file, save_file  # noqa: E402
from safetensors.torch import save_file as torch_save  # noqa: E402

from diffusion_policy_rt.engines import cpu, executed, onnx_engine  # noqa: E402
from diffusion_policy_rt.engines.bundle import (  # noqa: E402
    SPLIT, WEIGHTS, read_bundle, write_bundle)
from diffusion_policy_rt.engines.load import installed, load_engine  # noqa: E402
from diffusion_policy_rt.engines.torch_weights import read_checkpoint, read_weights  # noqa: E402
from diffusion_policy_rt.engines.weights import check_scales, read_header  # noqa: E402
from diffusion_policy_rt.errors import BundleError, EngineError  # noqa: E402
from diffusion_policy_rt.model.policy import Policy  # noqa: E402
from diffusion_policy_rt.runtime.ports import Layer  # noqa: E402
from diffusion_policy_rt.train.export import export_bundle  # noqa: E402
from diffusion_policy_rt.train.quantize import forms  # noqa: E402
from diffusion_policy_rt.train.quantize.choose import Trial, choose, relative_error  # noqa: E402
from diffusion_policy_rt.train.quantize.forms import FP32, Form, layers, quantize  # noqa: E402
from diffusion_policy_rt.train.quantize.gate import LIMITS, failures, share  # noqa: E402
from diffusion_policy_rt.train.quantize.run import make_parts, write  # noqa: E402

DYNAMIC, STATIC, WEIGHTS_ONLY = Form('dynamic'), Form('static'), Form('weight-only')
BOUNDS = {'dynamic': 0.1, 'static': 0.25, 'weight-only': 0.1}
"""Relative error of a tiny random network's output: several times what was seen."""
parts = pytest.mark.parametrize('part, form', [
    ('denoiser', DYNAMIC), ('denoiser', Form('dynamic', False, 'uint8')),
    ('denoiser', WEIGHTS_ONLY), ('encoder_front', STATIC),
    ('encoder_front', Form('static', True, 'int7'))])


def feeds(spec, part, count=24):
    rng = np.random.default_rng(0)
    if part != 'denoiser':
        size = spec.camera(part.removeprefix('encoder_')).input_size
        return [{'image': rng.uniform(-1, 1, (1, 3, *size)).astype(np.float32)}
                for _ in range(count)]
    return [{'x': rng.standard_normal((1, spec.horizon, len(spec.action))).astype(np.float32),
             'c_noise': rng.uniform(-500, 500, 1).astype(np.float32),
             'cond': rng.standard_normal((1, spec.cond_dim)).astype(np.float32)}
            for _ in range(count)]


@pytest.fixture(scope='module')
def quantized(exported, tmp_path_factory):
    """Return a function (model, form of the denoiser) -> (its bundle, the fp32 one)."""
    folder, made = tmp_path_factory.mktemp('quantized'), {}

    def get(model, form=DYNAMIC):
        if (model, form) not in made:
            source, _ = exported(model, 'edm')
            names = [f'encoder_{c.name}' for c in source.spec.cameras] + ['denoiser']
            split = make_parts(source, {name: feeds(source.spec, name) for name in names})
            for part in split:
                part.form = form if part.name == 'denoiser' else STATIC
            made[model, form] = write(source, split, {p.name: [] for p in split},
                                      folder / f'{model}_{form.kind}', {}), source
        return made[model, form]

    return get


@pytest.mark.parametrize('model', MODELS)
@parts
def test_a_quantized_graph_errs_little_and_runs_in_int8(
        exported, tmp_path, model, part, form):
    bundle, _ = exported(model, 'edm')
    graph, inputs = onnx.load(str(bundle.path(f'{part}.onnx'))), feeds(bundle.spec, part)
    onnx.save(quantize(graph, form, inputs), str(tmp_path / 'q.onnx'))
    session, ran = onnx_engine.open_graph(tmp_path / 'q.onnx', 1)
    reference = onnx_engine.make_session(bundle.path(f'{part}.onnx'), 1)
    outputs, expected = (np.concatenate([s.run(None, feed)[0] for feed in inputs])
                         for s in (session, reference))
    assert 0 < relative_error(outputs, expected) < BOUNDS[form.kind]
    assert sorted(layer.name for layer in ran if layer.dtype == 'int8') == sorted(layers(graph))


def test_a_layer_that_is_to_be_kept_runs_in_fp32_and_the_others_do_not(exported, tmp_path):
    bundle, _ = exported('keypoint_mlp', 'edm')
    graph = onnx.load(str(bundle.path('denoiser.onnx')))
    onnx.save(quantize(graph, DYNAMIC, (), ['outputs.1']), str(tmp_path / 'q.onnx'))
    ran = {layer.name: layer.dtype for layer in onnx_engine.open_graph(tmp_path / 'q.onnx', 1)[1]}
    assert ran.pop('outputs.1') == 'float32' and set(ran.values()) == {'int8'}


@pytest.mark.parametrize('form', [DYNAMIC, WEIGHTS_ONLY])
@pytest.mark.parametrize('engine', installed())
@pytest.mark.parametrize('model', MODELS)
def test_a_quantized_bundle_runs_on_every_engine(quantized, model, form, engine):
    (bundle, source), rng = quantized(model, form), np.random.default_rng(1)
    cond = rng.standard_normal(bundle.spec.cond_dim).astype(np.float32)
    noise = rng.standard_normal((bundle.spec.horizon, len(bundle.spec.action)))
    image = rng.uniform(-1, 1, (3, *bundle.spec.cameras[0].input_size)).astype(np.float32)
    ours, theirs = load_engine(bundle, engine), load_engine(source, 'torch')
    assert relative_error(ours.denoise(noise, 1.0, cond), theirs.denoise(noise, 1.0, cond)) < 0.1
    assert relative_error(ours.encode('front', image), theirs.encode('front', image)) < 0.1


@pytest.mark.parametrize('form', [DYNAMIC, WEIGHTS_ONLY])
@pytest.mark.parametrize('model', MODELS)
def test_a_quantized_bundle_holds_each_weight_once_and_in_8_bits(quantized, model, form):
    bundle, source = quantized(model, form)
    before, after = (read_header(b.path(WEIGHTS))[0] for b in (source, bundle))
    for name, tensor in before.items():
        product = name.endswith('.weight') and len(tensor.shape) > 1
        assert after[name].shape == tensor.shape
        assert after[name].dtype == ('I8' if product else after[name].dtype)
    for name in bundle.files:
        if name.endswith('.onnx'):
            graph = onnx.load(str(bundle.path(name)), load_external_data=False).graph
            assert all(np.prod(i.dims) < 300 for i in graph.initializer if not i.external_data)
    assert bundle.dtypes['denoiser'] == f'int8-{form.kind}'


@pytest.mark.parametrize('form', [DYNAMIC, WEIGHTS_ONLY, STATIC])
def test_layers_of_equal_weights_are_each_quantized(exported, tmp_path, form):
    policy, config = copy.deepcopy(exported('keypoint_mlp', 'edm')[1]), MODELS['keypoint_mlp']
    policy.denoiser.layers[1].load_state_dict(policy.denoiser.layers[0].state_dict())
    source = export_bundle(policy, config, tmp_path / 'fp32', {})
    split = make_parts(source, {name: feeds(policy.spec, name)
                                for name in ('encoder_front', 'encoder_wrist', 'denoiser')})
    split[2].form = form
    made = write(source, split, {part.name: [] for part in split}, tmp_path / 'q', {})
    ran = {layer.name: layer.dtype for layer in load_engine(made, 'onnxruntime').executed[
        'denoiser']}
    assert {'layers.0.first', 'layers.1.first'} <= ran.keys() and set(ran.values()) == {'int8'}
    stored = read_header(made.path(WEIGHTS))[0]
    assert stored['denoiser.layers.1.first.weight'].dtype == 'I8'


def test_the_engine_says_that_a_quantized_bundle_ran_in_int8(quantized):
    made = load_engine(quantized('keypoint_mlp')[0], 'onnxruntime')
    assert set(made.dtypes.values()) == {'int8'}
    assert {layer.name for layer in made.executed['denoiser']} >= {'cond.0', 'outputs.1'}


# -- the audit ----------------------------------------------------------------------------------


def test_a_graph_that_asked_for_int8_and_ran_in_fp32_is_refused(quantized, tmp_path):
    bundle, source = quantized('keypoint_mlp')
    tensors = load_file(source.path(WEIGHTS))

    def fill(folder):  # the weights are stored in 8 bits; the graph computes with fp32 ones
        for name in bundle.files:
            (folder / name).write_bytes(bundle.path(name).read_bytes())
        for name in SPLIT:
            graph = onnx.load(str(source.path(f'{name}.onnx')))
            (folder / f'{name}.onnx').write_bytes(graph.SerializeToString())

    mixed = write_bundle(tmp_path / 'p', {'spec': bundle.spec.to_json(), 'model': bundle.model},
                         fill)
    assert any(name.startswith('denoiser') for name in tensors)
    with pytest.raises(EngineError, match='stored in 8 bits and 0 were executed.*float32'):
        load_engine(mixed, 'onnxruntime')


def test_the_audit_reads_the_type_from_the_run_and_not_from_the_request(tmp_path):
    events = [
        {'name': 'a_quant_kernel_time', 'args': {
            'op_name': 'DynamicQuantizeMatMul', 'input_type_shape': [{'float': [1, 4]}]}},
        {'name': 'b/MatMulAddFusion_kernel_time', 'args': {
            'op_name': 'Gemm', 'input_type_shape': [{'float': [1, 4]}, {'float': [4, 4]}]}},
        {'name': 'c_kernel_time', 'args': {
            'op_name': 'MatMul', 'input_type_shape': [{'float16': [1, 4]}]}},
        {'name': 'norm_kernel_time', 'args': {'op_name': 'Add'}}, {'name': 'run'}]
    (tmp_path / 'profile').write_text(json.dumps(events))
    ran = executed.read_profile(tmp_path / 'profile')
    assert ran == [Layer('a', 'DynamicQuantizeMatMul', 'int8'), Layer('b', 'Gemm', 'float32'),
                   Layer('c', 'MatMul', 'float16')]
    assert executed.summary(ran) == 'int8 1, float32 1, float16 1'
    assert executed.summary(ran[:1]) == 'int8'


# -- this machine's products --------------------------------------------------------------------


@pytest.mark.parametrize('flags, machine, expected', [
    ({'avx2'}, 'x86_64', True), ({'avx2', 'avx_vnni'}, 'x86_64', False),
    ({'avx512_vnni'}, 'AMD64', False), (set(), 'aarch64', False)])
def test_products_saturate_on_x86_without_vnni(monkeypatch, flags, machine, expected):
    monkeypatch.setattr(cpu, 'flags', lambda: frozenset(flags))
    monkeypatch.setattr(cpu.platform, 'machine', lambda: machine)
    assert cpu.saturates() == expected


@pytest.mark.parametrize('part', ['denoiser', 'encoder_front'])
def test_where_products_saturate_no_signed_8_bit_weights_meet_unsigned_activations(
        monkeypatch, part):
    monkeypatch.setattr(forms, 'saturates', lambda: True)
    offered = [f for f in forms.candidates(part) if f.kind in ('dynamic', 'static')]
    assert offered and all(f.weights in ('int7', 'uint8') for f in offered)
    assert forms.named('static').weights == 'int7'


def test_where_products_saturate_the_engine_asks_for_exact_ones(monkeypatch, exported):
    entries = {}

    class Options(onnx_engine.onnxruntime.SessionOptions):
        def add_session_config_entry(self, key, value):
            entries[key] = value
            super().add_session_config_entry(key, value)

    monkeypatch.setattr(onnx_engine.onnxruntime, 'SessionOptions', Options)
    for saturating in (False, True):
        entries.clear()
        monkeypatch.setattr(onnx_engine, 'saturates', lambda s=saturating: s)
        load_engine(exported('keypoint_mlp', 'edm')[0], 'onnxruntime')
        assert ('session.x64quantprecision' in entries) == saturating


@given(st.integers(1, 20), st.integers(1, 6), st.integers(0, 2**31))
def test_weights_of_7_bits_use_7_and_weight_only_ones_err_by_half_a_step(rows, columns, seed):
    weight = np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)
    given_, taken = (onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1, size])
                     for n, size in (('x', rows), ('y', columns)))
    graph = onnx.helper.make_model(onnx.helper.make_graph(
        [onnx.helper.make_node('MatMul', ['x', 'w'], ['y'], 'layer')], 'g', [given_], [taken],
        [onnx.numpy_helper.from_array(weight, 'w')]),
        opset_imports=[onnx.helper.make_opsetid('', 17)], ir_version=9)
    made = quantize(graph, WEIGHTS_ONLY, ())
    held = {i.name: onnx.numpy_helper.to_array(i) for i in made.graph.initializer}
    back = held['w_quantized'] * held['w_scale']
    assert np.all(np.abs(back - weight) <= held['w_scale'] / 2 * (1 + 1e-5))
    seven = quantize(graph, Form('dynamic', True, 'int7'), ())
    stored = next(onnx.numpy_helper.to_array(i) for i in seven.graph.initializer
                  if i.name == 'w_quantized')
    assert np.abs(stored.astype(int)).max() <= 64


# -- the choice and the gate --------------------------------------------------------------------


def trial(form, error, seconds, executed='int8'):
    return Trial(form, error, seconds, 1, executed)


def test_the_choice_is_the_most_faithful_of_about_the_fastest():
    slow_exact = trial(WEIGHTS_ONLY, 0.001, 2.0)
    fast, faster = trial(DYNAMIC, 0.01, 1.1), trial(Form('dynamic', False), 0.03, 1.0)
    assert choose('denoiser', [trial(FP32, 0, 0.1), slow_exact, fast, faster]) is fast


@pytest.mark.parametrize('bad', [trial(DYNAMIC, 0.5, 0.1), trial(DYNAMIC, 0.01, 0.1, 'float32'),
                                 trial(DYNAMIC, 0.01, 0.1, 'int8 3, float32 1')])
def test_a_form_that_errs_or_that_ran_in_another_type_is_not_chosen(bad):
    sound = trial(WEIGHTS_ONLY, 0.02, 9.0)
    assert choose('denoiser', [bad, sound]) is sound
    with pytest.raises(EngineError, match='--denoiser fp32'):
        choose('denoiser', [bad])


GOOD = {'chunk_rmse': 0.002, 'jerk_ratio': 1.01, 'score_loss': -0.1, 'size_ratio': 0.27}


@pytest.mark.parametrize('changes, named', [
    ({}, []), ({'score_loss': None}, []), ({'chunk_rmse': 0.02}, ['chunk_rmse']),
    ({'jerk_ratio': float('nan')}, ['jerk_ratio']),
    ({'score_loss': 0.02, 'size_ratio': 0.5}, ['score_loss', 'size_ratio'])])
def test_the_gate_names_what_exceeds_its_limits(changes, named):
    assert [line.split()[0] for line in failures(GOOD | changes)] == named


def test_what_was_not_measured_does_not_pass_the_gate():
    report = {key: value for key, value in GOOD.items() if key != 'score_loss'}
    assert failures(report) == [f'score_loss not measured (at most {LIMITS["score_loss"]:g})']


def test_a_share_of_one_is_the_limit_of_either_measure():
    assert share({'chunk_rmse': LIMITS['chunk_rmse'], 'jerk_ratio': 0.9}) == pytest.approx(1)
    assert share({'chunk_rmse': 0, 'jerk_ratio': LIMITS['jerk_ratio']}) == pytest.approx(1)


# -- what is stored -----------------------------------------------------------------------------


@pytest.mark.parametrize('damage, match', [
    (lambda data: data[:-9], 'truncated'), (lambda data: data[:6], 'damaged'),
    (lambda data: b'garbage!' + data, 'no safetensors|damaged'), (lambda data: b'', 'damaged')])
def test_a_damaged_weights_file_is_refused_in_one_line(quantized, tmp_path, damage, match):
    bundle, _ = quantized('keypoint_mlp')
    path = tmp_path / 'w.safetensors'
    path.write_bytes(damage(bundle.path(WEIGHTS).read_bytes()))
    with pytest.raises(BundleError, match=match) as caught:
        read_header(path)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('engine', installed())
def test_a_scale_that_does_not_fit_its_tensor_is_refused_by_every_engine(
        quantized, tmp_path, engine):
    bundle, _ = quantized('keypoint_mlp')

    def fill(folder):
        for name in bundle.files:
            (folder / name).write_bytes(bundle.path(name).read_bytes())
        tensors = load_file(bundle.path(WEIGHTS))
        tensors['denoiser.cond.0.weight_scale'] = np.ones(5, np.float32)
        save_file(tensors, folder / WEIGHTS, {'layout': 'products'})

    spoiled = write_bundle(tmp_path / 'p', {'spec': bundle.spec.to_json(),
                                            'model': bundle.model}, fill)
    with pytest.raises(BundleError, match=r'cond.0.weight_scale has shape \[5\]'):
        load_engine(read_bundle(spoiled.folder), engine)


# -- checkpoints that modelopt exported ---------------------------------------------------------


def export_like_modelopt(policy, folder, algorithm='W8A8_SQ_PER_CHANNEL', **changes):
    """Write int8 weights and scales per output channel as modelopt lays them out."""
    tensors = {}
    for name, tensor in policy.state_dict().items():
        if name.endswith('.weight') and tensor.ndim > 1:
            axis = tuple(range(1, tensor.ndim))
            scale = tensor.abs().amax(axis) / 127
            shaped = scale.reshape(-1, *[1] * (tensor.ndim - 1))
            tensors[name] = (tensor / shaped).round().to(torch.int8).numpy()
            tensors[f'{name}_scale'] = scale.numpy()
            tensors[name.removesuffix('weight') + 'input_scale'] = np.float32([0.1])
        else:
            tensors[name] = tensor.numpy()
    folder.mkdir()
    save_file(tensors | changes, folder / 'model.safetensors')
    (folder / 'hf_quant_config.json').write_text(json.dumps({
        'producer': {'name': 'modelopt', 'version': '0.47.0'},
        'quantization': {'quant_algo': algorithm, 'kv_cache_quant_algo': None}}))
    return folder


@pytest.mark.parametrize('model', MODELS)
def test_a_checkpoint_that_modelopt_exported_is_read(exported, tmp_path, model):
    bundle, policy = exported(model, 'edm')
    if model == 'resnet_unet':  # its transposed convolutions have their channels second
        policy = Policy(bundle.spec, bundle.model | {'denoiser': {
            **bundle.model['denoiser'], 'down_dims': [16]}})
    read = read_checkpoint(export_like_modelopt(policy, tmp_path / 'c'), policy)
    for name, tensor in policy.state_dict().items():
        assert (read[name] - tensor).abs().max() <= 0.01 * tensor.abs().max()


def test_modelopt_s_own_numbers_are_read(exported, tmp_path):
    mtq = pytest.importorskip('modelopt.torch.quantization', reason='modelopt is not installed')
    export = pytest.importorskip('modelopt.torch.export.quant_utils')
    bundle, policy = exported('keypoint_mlp', 'edm')
    net = Policy(bundle.spec, bundle.model).denoiser
    net.load_state_dict(policy.denoiser.state_dict())
    inputs = [[torch.from_numpy(a) for a in feed.values()]
              for feed in feeds(bundle.spec, 'denoiser')]
    made = mtq.quantize(net, mtq.INT8_SMOOTHQUANT_CFG,
                        lambda module: [module(*given) for given in inputs])
    tensors = {}
    for name, layer in made.named_modules():
        if isinstance(layer, torch.nn.Linear):
            scale = export.get_weight_scaling_factor(layer)
            tensors[f'{name}.weight'] = export.to_quantized_weight(
                layer.weight.detach(), scale, 'int8_sq').numpy()
            tensors[f'{name}.weight_scale'] = scale.numpy()
            smooth = layer.input_quantizer.pre_quant_scale
            tensors[f'{name}.pre_quant_scale'] = smooth.detach().numpy()
    path = tmp_path / 'model.safetensors'
    save_file(tensors, path)
    read = read_weights(path, policy.denoiser)
    for name in read:
        error = relative_error(read[name].numpy(), policy.denoiser.state_dict()[name].numpy())
        assert error < 0.05, name


@pytest.mark.parametrize('damage, match', [
    (lambda c: (c / 'hf_quant_config.json').unlink(), 'hf_quant_config.json'),
    (lambda c: (c / 'hf_quant_config.json').write_text('{}'), 'damaged'),
    (lambda c: (c / 'model.safetensors').unlink(), 'no safetensors file'),
    (lambda c: (c / 'model.safetensors').write_bytes(b'1234567890'), 'damaged')])
def test_a_checkpoint_that_is_damaged_or_incomplete_is_refused(exported, tmp_path, damage, match):
    _, policy = exported('keypoint_mlp', 'edm')
    folder = export_like_modelopt(policy, tmp_path / 'c')
    damage(folder)
    with pytest.raises(BundleError, match=match) as caught:
        read_checkpoint(folder, policy)
    assert '\n' not in str(caught.value)


def test_a_format_that_packs_several_values_in_a_byte_is_refused(exported, tmp_path):
    _, policy = exported('keypoint_mlp', 'edm')
    with pytest.raises(BundleError, match='W4A16_AWQ is not read; use one of FP8'):
        read_checkpoint(export_like_modelopt(policy, tmp_path / 'c', 'W4A16_AWQ'), policy)


def test_modelopt_s_own_4_bit_numbers_are_read(tmp_path):
    nvfp4 = pytest.importorskip('modelopt.torch.quantization.qtensor.nvfp4_tensor',
                                reason='modelopt is not installed').NVFP4QTensor
    net = torch.nn.Sequential(torch.nn.Linear(64, 24), torch.nn.Linear(24, 3))
    weight = net[0].weight.detach()
    packed, factors, whole = nvfp4.quantize(weight.clone(), 16)
    held = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    path = tmp_path / 'model.safetensors'
    torch_save(held | {'0.weight': packed._quantized_data, '0.weight_scale': factors,
                       '0.weight_scale_2': whole, '0.input_scale': torch.ones(1)}, path)
    read = read_weights(path, net)
    expected = packed.dequantize(torch.float32, scale=factors, double_scale=whole,
                                 block_sizes={-1: 16})
    torch.testing.assert_close(read['0.weight'], expected)
    assert 0 < relative_error(expected.numpy(), weight.numpy()) < 0.2
    short = factors[:, :3].clone()
    torch_save(held | {'0.weight': packed._quantized_data, '0.weight_scale': short,
                       '0.weight_scale_2': whole}, path)
    with pytest.raises(BundleError, match='weight_scale has shape'):
        read_weights(path, net)


def test_the_checkpoint_of_another_policy_is_refused_by_what_does_not_fit(exported, tmp_path):
    folder = export_like_modelopt(exported('keypoint_mlp', 'edm')[1], tmp_path / 'c')
    with pytest.raises(BundleError, match='it must be the checkpoint of this policy'):
        read_checkpoint(folder, exported('resnet_unet', 'edm')[1])


def test_scales_of_a_wrong_shape_are_refused_in_a_checkpoint_too(exported, tmp_path):
    _, policy = exported('keypoint_mlp', 'edm')
    folder = export_like_modelopt(policy, tmp_path / 'c', **{
        'denoiser.cond.0.weight_scale': np.ones((3, 3), np.float32)})
    with pytest.raises(BundleError, match=r'weight_scale has shape \[3, 3\]'):
        check_scales(folder, read_header(folder / 'model.safetensors')[0])
