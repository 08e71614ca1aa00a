"""Pick an engine for a bundle; the one place where engines are imported, when they are needed."""

from __future__ import annotations

import importlib
from importlib.util import find_spec

from diffusion_policy_rt.engines.bundle import Bundle
from diffusion_policy_rt.errors import EngineError
from diffusion_policy_rt.runtime.ports import Engine

ENGINES = {
    'onnxruntime': ('diffusion_policy_rt.engines.onnx_engine', 'OnnxEngine', 'onnxruntime'),
    'torch': ('diffusion_policy_rt.engines.torch_engine', 'TorchEngine', 'torch'),
}
"""Name -> module, class, and the package that it needs; in `auto`'s order of preference."""


def installed() -> list[str]:
    """Return the engines whose package is installed."""
    return [name for name, (_, _, package) in ENGINES.items() if find_spec(package)]


def load_engine(bundle: Bundle, engine: str = 'auto', threads: int = 1) -> Engine:
    """Load the engine called `engine`, or the first installed one for `auto`."""
    available = installed()
    if engine == 'auto':
        if not available:
            raise EngineError('no engine is installed; pip install onnxruntime')
        engine = available[0]
    if engine not in ENGINES:
        raise EngineError(f'unknown engine {engine!r}; use auto, {", ".join(ENGINES)}')
    if engine not in available:
        raise EngineError(f'engine {engine} needs the package {ENGINES[engine][2]}; '
                          f'installed: {", ".join(available) or "none"}')
    module, name, _ = ENGINES[engine]
    return getattr(importlib.import_module(module), name)(bundle, threads)
