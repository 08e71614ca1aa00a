#!/usr/bin/env python3
"""Everything that only a GPU can show, in one table: run by `make gpu-check`.

The base network with random weights, two cameras: whole plans of torch (eager, compiled, one CUDA
graph), products in bf16 and fp8, and TensorRT where it is installed: parity and latency.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffusion_policy_rt.cli.common import table
from diffusion_policy_rt.engines.load import load_engine
from diffusion_policy_rt.engines.parity import deviation
from diffusion_policy_rt.engines.timing import take_turns
from diffusion_policy_rt.engines.torch_plan import CapturedPlan, TorchPlan
from diffusion_policy_rt.errors import DprtError
from diffusion_policy_rt.model.policy import Policy, parts
from diffusion_policy_rt.train.base import DENOISER, ENCODER, base_spec, write_base

SIZE, REPEATS = 4096, 200


def row(what: str, call: Callable[[], object], **facts: Any) -> dict[str, Any]:
    """Measure a call, its kernels awaited, and return its row."""
    def whole() -> None:
        call()
        torch.cuda.synchronize()

    taken = take_turns([whole], REPEATS)[0]
    return {'what': what, 'p50_ms': 1e3 * float(np.percentile(taken, 50)),
            'p99_ms': 1e3 * float(np.percentile(taken, 99)), 'note': str(facts.get('note', ''))}


def plans(steps: int) -> list[dict[str, Any]]:
    """Measure whole plans in torch."""
    torch.manual_seed(0)
    spec = base_spec(cameras=2)
    policy = Policy(spec, {'encoder': ENCODER, 'denoiser': DENOISER}).cuda().eval()
    plan = TorchPlan(policy, steps)
    images = {c.name: torch.randn(spec.n_obs, 3, *c.input_size, device='cuda')
              for c in spec.cameras}
    states = torch.zeros(spec.n_obs, len(spec.state), device='cuda')
    rest = torch.zeros(1, spec.cond_dim - spec.observed_dim, device='cuda')
    noise = torch.randn(1, spec.horizon, len(spec.action), device='cuda')
    with torch.inference_mode():
        expected = plan(images, states, rest, noise)
        rows = [row(f'plan, {steps} steps, eager', lambda: plan(images, states, rest, noise))]
        captured = CapturedPlan(plan, images, states, rest, noise)
        difference = float((captured() - expected).abs().max())
        rows.append(row(f'plan, {steps} steps, one CUDA graph', captured,
                        note=f'differs from eager by {difference:.1e}'))
        for module in parts(policy).values():
            module.compile()
        plan(images, states, rest, noise)
        rows.append(row(f'plan, {steps} steps, compiled',
                        lambda: plan(images, states, rest, noise)))
    return rows


def products() -> list[dict[str, Any]]:
    """Measure a large product in bf16 and, where the GPU has it, in fp8."""
    a, b = (torch.randn(SIZE, SIZE, device='cuda') for _ in range(2))
    expected, one = a @ b, torch.ones((), device='cuda')
    x, y = a.bfloat16(), b.bfloat16()
    rows = [row('product 4096^3, bf16', lambda: x @ y)]
    if torch.cuda.get_device_capability() >= (8, 9):
        p, q = a.to(torch.float8_e4m3fn), b.t().contiguous().to(torch.float8_e4m3fn).t()
        made = torch._scaled_mm(p, q, one, one, out_dtype=torch.bfloat16)
        error = float((made - expected).norm() / expected.norm())
        rows.append(row('product 4096^3, fp8', lambda: torch._scaled_mm(
            p, q, one, one, out_dtype=torch.bfloat16), note=f'relative error {error:.3f}'))
    return rows


def tensorrt() -> list[dict[str, Any]]:
    """Build the base network with TensorRT, hold it against torch, and measure it."""
    with tempfile.TemporaryDirectory() as folder:
        bundle = write_base(Path(folder) / 'base', base_spec(cameras=2))
        try:
            engine = load_engine(bundle, 'tensorrt')
        except DprtError as error:
            return [{'what': 'tensorrt', 'p50_ms': None, 'p99_ms': None, 'note': str(error)}]
        spec = bundle.spec
        x, cond = np.zeros((spec.horizon, 2)), np.zeros(spec.cond_dim, np.float32)
        found = deviation(bundle, engine)
        note = f'differs from torch by {found[0]:.1e}' if found else ''
        return [row('tensorrt, denoiser', lambda: engine.denoise(x, 1.0, cond), note=note)]


def main() -> int:
    """Print the table; return 1 without a GPU."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--json', metavar='FILE', help='write the rows as JSON')
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print('gpu-check: torch sees no NVIDIA GPU here', file=sys.stderr)
        return 1
    rows = [*plans(1), *plans(4), *products(), *tensorrt()]
    print(torch.cuda.get_device_name(), torch.__version__)
    print(table(rows))
    if args.json:
        Path(args.json).write_text(json.dumps(rows, indent=1) + '\n')
    return 0


if __name__ == '__main__':
    sys.exit(main())
