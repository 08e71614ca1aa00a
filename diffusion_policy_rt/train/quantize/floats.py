"""Products of 8-bit and 4-bit floating-point numbers, as GPUs compute them, simulated in torch.

    fp8     E4M3 (Micikevicius et al. 2022), one scale per tensor; activations' scale is calibrated
    nvfp4   E2M1 in blocks of 16 along the sum, each with a scale in E4M3, and a float32 scale of
            the tensor (NVIDIA 2025, "Pretraining LLMs with NVFP4", appendix B); the blocks' scales
            of activations are found on the fly

A lowered network (`model.lower`) is all products, convolutions too: both forms suit every layer.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diffusion_policy_rt.engines.torch_weights import E2M1
from diffusion_policy_rt.engines.weights import BLOCK
from diffusion_policy_rt.model.lower import MatrixProduct, lower
from diffusion_policy_rt.model.policy import Policy
from diffusion_policy_rt.train.quantize.forms import Feed
from diffusion_policy_rt.train.quantize.qdq import kept

FORMS = ('fp8', 'nvfp4')
E4M3_MAX, E2M1_MAX = 448.0, 6.0
SMALLEST = 2.0**-9
"""The least that E4M3 tells from zero."""
BETWEEN = torch.tensor([(a + b) / 2 for a, b in zip(E2M1, E2M1[1:])])


def to_e4m3(x: Tensor) -> Tensor:
    """Return the nearest numbers that E4M3 has, as float8_e4m3fn."""
    return x.clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn)


def to_e2m1(x: Tensor) -> Tensor:
    """Return the 4-bit codes, uint8, of the nearest numbers that E2M1 has; ties go to even."""
    magnitude = x.abs()
    code = torch.bucketize(magnitude.contiguous(), BETWEEN)
    tie = (code < len(BETWEEN)) & (code % 2 == 1) & (
        magnitude == BETWEEN[code.clamp(max=len(BETWEEN) - 1)])
    return (code + tie.long() + 8 * (x < 0)).to(torch.uint8)


def scale_of(top: Tensor | float, form: str) -> float:
    """Return the scale of a tensor whose largest magnitude is `top`."""
    return max(float(top), 1e-12) / (E4M3_MAX if form == 'fp8' else E4M3_MAX * E2M1_MAX)


def to_blocks(x: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Return codes uint8 [..., K] and the blocks' scales float8_e4m3fn [..., K / 16]."""
    blocks = x.unflatten(-1, (-1, BLOCK))
    largest = blocks.abs().amax(-1)
    factors = to_e4m3((largest / (E2M1_MAX * scale)).clamp(min=SMALLEST))
    return to_e2m1(blocks / (factors.float() * scale)[..., None]).flatten(-2), factors


def rounded(x: Tensor, form: str, scale: float) -> Tensor:
    """Return what is left of x [..., K] in a form."""
    if form == 'fp8':
        return to_e4m3(x / scale).float() * scale
    codes, factors = to_blocks(x, scale)
    values = torch.tensor([*E2M1, *(-v for v in E2M1)])[codes.long()]
    return values * (factors.float() * scale).repeat_interleave(BLOCK, -1)


class Rounding(torch.autograd.Function):
    """`rounded` in torch, and in a graph a node that `float_graph` replaces."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, form: str, scale: float, weight: bool) -> Tensor:
        """Round activations along their last dimension, weights [K, D] along the first."""
        if torch.onnx.is_in_onnx_export():
            return x.clone()  # the exporter wants the node alone
        return rounded(x.t(), form, scale).t() if weight else rounded(x, form, scale)

    @staticmethod
    def symbolic(g: Any, x: Any, form: str, scale: float, weight: bool) -> Any:
        """Write the node `dprt::Rounding`."""
        made = g.op('dprt::Rounding', x, form_s=form, scale_f=scale, weight_i=int(weight))
        return made.setType(x.type())


class FloatProduct(MatrixProduct):
    """A matrix product whose two sides are rounded to a form."""

    def __init__(self, layer: MatrixProduct, form: str, top: float) -> None:
        """`top` is the largest magnitude of the calibrated inputs."""
        nn.Module.__init__(self)
        self.weight, self.bias, self._taps = layer.weight, layer.bias, layer._taps
        self.form, self.inputs = form, scale_of(top, form)
        self.own = scale_of(layer.weight.detach().abs().max(), form)
        self.rounded = Rounding.apply(layer.weight.detach(), form, self.own, True)

    def _product(self, x: Tensor) -> Tensor:
        weight = (Rounding.apply(self.weight, self.form, self.own, True)
                  if torch.onnx.is_in_onnx_export() else self.rounded)
        x = Rounding.apply(x, self.form, self.inputs, False) @ weight
        return x if self.bias is None else x + self.bias


def fits(layer: MatrixProduct, form: str) -> bool:
    """Tell whether a product can be in a form: NVFP4 wants whole blocks, and pairs of outputs.

    TensorRT takes the scales of a single block for those of channels.
    """
    rows, columns = layer.weight.shape
    return form == 'fp8' or rows > BLOCK and rows % BLOCK == 0 and columns % 2 == 0


def largest_inputs(module: nn.Module, feeds: Sequence[Feed],
                   names: Sequence[str]) -> dict[str, float]:
    """Return the largest magnitude that each product's inputs have, by the layer's name."""
    found: dict[str, float] = {}

    def watch(name: str, x: Tensor) -> None:
        found[name] = max(found.get(name, 0.0), float(x.abs().max()))

    handles = [layer.register_forward_pre_hook(
        lambda _, given, name=name: watch(name, given[0]))  # type: ignore[misc]
        for name, layer in module.named_modules() if isinstance(layer, MatrixProduct)]
    with torch.no_grad():
        for feed in feeds:
            module(*(torch.from_numpy(np.asarray(feed[name])) for name in names))
    for handle in handles:
        handle.remove()
    return found


def quantize_policy(policy: Policy, feeds: Sequence[Feed], names: Sequence[str],
                    form: str) -> tuple[Policy, list[str]]:
    """Return a lowered copy whose denoiser computes in a form, and the layers left in fp32.

    Encoders stay as they are: a GPU spends little on them. `feeds` are the denoiser's recorded
    inputs, `names` these in the order of its arguments.
    """
    made, high = lower(copy.deepcopy(policy).eval()), set(kept(policy.denoiser))
    tops = largest_inputs(made.denoiser, feeds, names)
    for name, layer in list(made.denoiser.named_modules()):
        if not isinstance(layer, MatrixProduct) or name in high:
            continue
        if not fits(layer, form):
            high.add(name)
            continue
        parent, _, own = name.rpartition('.')
        setattr(made.denoiser.get_submodule(parent), own, FloatProduct(layer, form, tops[name]))
    return made, sorted(high)
