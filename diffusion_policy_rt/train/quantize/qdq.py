"""The 8-bit form of TensorRT: symmetric int8 with explicit quantizers, calibrated by modelopt."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn

from diffusion_policy_rt.engines.torch_engine import PRODUCTS
from diffusion_policy_rt.errors import EngineError
from diffusion_policy_rt.model.policy import Policy
from diffusion_policy_rt.train.export import export_graph, graphs
from diffusion_policy_rt.train.quantize.forms import Feed
from diffusion_policy_rt.train.shared import own_weights

DTYPE = 'int8-qdq'
KEPT = ('*step_encoder*', '*stop_encoder*', '*cond_encoder*', '*film*', 'inputs', 'left', 'right',
        '*modulation*', 'input_emb', 'cond_obs_emb', 'prefix_emb', 'head', '*outputs*',
        '*final_conv.1', '*pool.nets', 'down_modules.0.0.conv1*', 'backbone.0')
"""Layers that stay high: first and last, the embedding of the level, what the condition scales."""
WEIGHTS = {'num_bits': 8, 'axis': 0}
INPUTS = {'num_bits': 8, 'axis': None}


def kept(module: nn.Module) -> list[str]:
    """Return the names of the layers that are not quantized: of `KEPT`, or transposed ones."""
    return [name for name, layer in module.named_modules()
            if isinstance(layer, nn.ConvTranspose1d)
            or isinstance(layer, PRODUCTS) and any(fnmatch(name, p) for p in KEPT)]


def calibrate(module: nn.Module, feeds: Sequence[Feed], names: Sequence[str]) -> nn.Module:
    """Return a copy with quantizers in it, their ranges those of the inputs `feeds`.

    `names` are the inputs in the order of the module's arguments.
    """
    try:
        import modelopt.torch.quantization as mtq  # seconds, and only this form needs it
    except ImportError as error:
        raise EngineError(f'TensorRT\'s 8-bit form needs {error.name}; pip install '
                          '"diffusion_policy_rt[distill]"') from error

    config = {'algorithm': 'max', 'quant_cfg': [
        {'quantizer_name': '*', 'enable': False},
        {'quantizer_name': '*weight_quantizer', 'cfg': WEIGHTS},
        {'quantizer_name': '*input_quantizer', 'cfg': INPUTS},
        {'quantizer_name': '*norm*', 'enable': False},
        *({'quantizer_name': f'{name}.*', 'enable': False} for name in kept(module))]}

    def run(made: nn.Module) -> None:
        for feed in feeds:
            made(*(torch.from_numpy(np.asarray(feed[name])) for name in names))

    with torch.no_grad():
        return mtq.quantize(copy.deepcopy(module), config, run).eval()


def quantize_policy(policy: Policy, feeds: Mapping[str, Sequence[Feed]]) -> Policy:
    """Return a copy of the policy whose networks compute as their int8 engines will."""
    made = copy.deepcopy(policy).eval()
    for part, (module, inputs, _) in graphs(policy).items():
        quantized = calibrate(module, feeds[part], list(inputs))
        if part == 'denoiser':
            made.denoiser = quantized
        else:
            made.encoders[part.removeprefix('encoder_')] = quantized
    return made


def qdq_graphs(quantized: Policy) -> dict[str, onnx.ModelProto]:
    """Return each network's graph, its weights stored in int8."""
    made = {}
    with tempfile.TemporaryDirectory() as folder:
        for part, (module, inputs, output) in graphs(quantized).items():
            path = Path(folder) / f'{part}.onnx'
            export_graph(module, inputs, output, path)
            made[part] = onnx.load(str(path))
            own_weights(made[part])
            store_int8(made[part])
    return made


def store_int8(graph: onnx.ModelProto) -> None:
    """Quantize the weights now, and leave of their quantizers what multiplies by the scale."""
    held = {i.name: i for i in graph.graph.initializer}
    constants = {n.output[0]: numpy_helper.to_array(n.attribute[0].t)
                 for n in graph.graph.node if n.op_type == 'Constant'}
    users = {node.input[0]: node for node in graph.graph.node
             if node.op_type == 'DequantizeLinear'}
    for node in [n for n in graph.graph.node
                 if n.op_type == 'QuantizeLinear' and n.input[0] in held]:
        name, scale = node.input[0], constants[node.input[1]].astype(np.float32)
        weight = numpy_helper.to_array(held[name])
        shaped = scale.reshape(-1, *[1] * (weight.ndim - 1)) if scale.size > 1 else scale
        stored = np.rint(weight / shaped).clip(-128, 127).astype(np.int8)
        graph.graph.initializer.remove(held[name])
        graph.graph.initializer.extend([numpy_helper.from_array(stored, f'{name}_quantized'),
                                        numpy_helper.from_array(scale, f'{name}_scale')])
        after = users[node.output[0]]
        after.input[0], after.input[1] = f'{name}_quantized', f'{name}_scale'
        graph.graph.node.remove(node)
