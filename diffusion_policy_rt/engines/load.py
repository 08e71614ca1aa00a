"""Pick an engine for a bundle; the one place where engines are imported, when they are needed."""

from __future__ import annotations

import importlib
import logging
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np

from diffusion_policy_rt.engines.bundle import Bundle
from diffusion_policy_rt.engines.timing import take_turns
from diffusion_policy_rt.errors import DprtError, EngineError
from diffusion_policy_rt.runtime.ports import Engine
from diffusion_policy_rt.spec import PolicySpec

log = logging.getLogger(__name__)
ROUNDS = 20
"""Calls of each engine that `auto` measures."""
GPU = (Path('/dev/nvidiactl'), Path('/dev/nvhost-gpu'), Path('/dev/nvgpu'))
"""What NVIDIA's drivers put into /dev: of desktops and servers, and of Jetson."""


class Entry(NamedTuple):
    """Where an engine lies, and what it needs."""

    module: str
    name: str
    package: str
    how: str
    """The command that installs the package."""


ENGINES = {
    'onnxruntime': Entry('diffusion_policy_rt.engines.onnx_engine', 'OnnxEngine', 'onnxruntime',
                         'pip install onnxruntime'),
    'tensorrt': Entry('diffusion_policy_rt.engines.tensorrt_engine', 'TensorRTEngine', 'tensorrt',
                      'pip install tensorrt-cu12 --extra-index-url https://pypi.nvidia.com'),
    'torch': Entry('diffusion_policy_rt.engines.torch_engine', 'TorchEngine', 'torch',
                   'pip install torch'),
}
"""In `auto`'s order of preference where there is no GPU to be measured."""


def installed() -> list[str]:
    """Return the engines whose package is installed."""
    return [name for name, entry in ENGINES.items() if find_spec(entry.package)]


def gpu() -> bool:
    """Tell whether an NVIDIA GPU is there, without loading what would use it."""
    return any(path.exists() for path in GPU)


def load_engine(bundle: Bundle, engine: str = 'auto', threads: int = 1) -> Engine:
    """Load the engine called `engine`; `auto` takes the fastest that runs the bundle here.

    Without a GPU that is onnxruntime where it is installed: it is faster than torch on every CPU
    that was measured (docs/results/engines.md), and torch is not loaded to find that out.
    """
    available = installed()
    if engine == 'auto':
        return _fastest(bundle, available, threads) if gpu() else _first(
            bundle, [name for name in available if name != 'tensorrt'], threads)
    if engine not in ENGINES:
        raise EngineError(f'unknown engine {engine!r}; use auto, {", ".join(ENGINES)}')
    if engine not in available:
        raise EngineError(f'engine {engine} is not installed: {ENGINES[engine].how}; '
                          f'installed: {", ".join(available) or "none"}')
    return _load(bundle, engine, threads)


def _load(bundle: Bundle, engine: str, threads: int) -> Engine:
    entry = ENGINES[engine]
    return getattr(importlib.import_module(entry.module), entry.name)(bundle, threads)


def _first(bundle: Bundle, names: list[str], threads: int) -> Engine:
    if not names:
        raise EngineError(f'no engine is installed; {ENGINES["onnxruntime"].how}')
    return _load(bundle, names[0], threads)


def _fastest(bundle: Bundle, names: list[str], threads: int) -> Engine:
    """Return the engine whose denoiser is the fastest; one that cannot run the bundle is told."""
    loaded: list[Engine] = []
    for name in names:
        try:
            loaded.append(_load(bundle, name, threads))
        except DprtError as error:
            log.warning('engine %s is left out: %s', name, error)
    if not loaded:
        raise EngineError(f'no engine runs {bundle.folder} here; {ENGINES["onnxruntime"].how}')
    times = take_turns([partial(denoise_anew, e, bundle.spec) for e in loaded], ROUNDS)
    medians = [float(np.median(taken)) for taken in times]
    return loaded[int(np.argmin(medians))]


def denoise_anew(engine: Engine, spec: PolicySpec) -> np.ndarray:
    """Call the denoiser once, under a condition that it never had: engines keep parts of it."""
    cond = np.random.default_rng().standard_normal(spec.cond_dim, np.float32)
    return engine.denoise(np.zeros((spec.horizon, len(spec.action))), 1.0, cond)
