"""The GPU engine: TensorRT 10 or 11 over the bundle's graphs, on torch's memory and stream.

Inputs and outputs are torch tensors at fixed addresses, and each network is one CUDA graph, so
that a call is a copy in, a replay and a copy out.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from diffusion_policy_rt.engines import cache
from diffusion_policy_rt.engines.bundle import WEIGHTS, Bundle
from diffusion_policy_rt.engines.executed import check_types, summary
from diffusion_policy_rt.engines.load import ENGINES
from diffusion_policy_rt.engines.tensorrt_build import OPTIONS, build
from diffusion_policy_rt.errors import EngineError
from diffusion_policy_rt.runtime.ports import Layer
from diffusion_policy_rt.runtime.precond import denoise

log = logging.getLogger(__name__)


def load_tensorrt() -> ModuleType:
    """Import TensorRT; EngineError without the package or without a GPU."""
    try:
        import tensorrt
    except (ImportError, OSError) as error:
        raise EngineError(f'tensorrt cannot be loaded: {error}; its libraries come from NVIDIA\'s '
                          f'own index: {ENGINES["tensorrt"].how}') from error
    if not torch.cuda.is_available():
        raise EngineError('tensorrt needs an NVIDIA GPU, and torch sees none here; use engine '
                          'onnxruntime')
    return tensorrt


def make_logger(trt: ModuleType) -> Any:
    """Return a logger that hands TensorRT's messages to Python's."""
    class Logger(trt.ILogger):  # type: ignore[name-defined, misc]
        def log(self, severity: Any, message: str) -> None:
            grave = severity <= trt.ILogger.Severity.ERROR
            (log.error if grave else log.debug)('tensorrt: %s', message)

    return Logger()


def facts(trt: ModuleType, bundle: Bundle, part: str) -> dict[str, str]:
    """Return all that a built engine depends on."""
    device = torch.cuda.get_device_properties(0)
    return {'graph': str(bundle.files[f'{part}.onnx']['sha256']),
            'weights': str(bundle.files[WEIGHTS]['sha256']), 'tensorrt': trt.__version__,
            'gpu': f'{device.name} {device.major}.{device.minor}',
            'driver': driver(), 'cuda': str(torch.version.cuda), 'options': OPTIONS}


def driver() -> str:
    """Return the version of NVIDIA's kernel driver, as it tells itself."""
    try:
        return Path('/proc/driver/nvidia/version').read_text().splitlines()[0]
    except (OSError, IndexError):
        return 'unknown'


class Network:
    """One built engine with its tensors, captured as a CUDA graph."""

    def __init__(self, trt: ModuleType, plan: bytes, logger: Any) -> None:
        runtime = trt.Runtime(logger)
        self.engine = runtime.deserialize_cuda_engine(plan)
        if self.engine is None:
            raise EngineError('tensorrt cannot load the engine that it built; its log says why')
        self._context, self._stream = self.engine.create_execution_context(), torch.cuda.Stream()
        self.tensors: dict[str, torch.Tensor] = {}
        for i in range(self.engine.num_io_tensors):
            name = self.engine.get_tensor_name(i)
            shape = tuple(self.engine.get_tensor_shape(name))
            self.tensors[name] = torch.zeros(shape, device='cuda')
            self._context.set_tensor_address(name, self.tensors[name].data_ptr())
            if self.engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT:
                self.output = self.tensors[name]
        with torch.cuda.stream(self._stream):
            self._execute()  # what is set up on the first run must not be captured
        self._stream.synchronize()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, stream=self._stream):
            self._execute()

    def _execute(self) -> None:
        if not self._context.execute_async_v3(self._stream.cuda_stream):
            raise EngineError('tensorrt cannot execute the engine; its log says why')

    def __call__(self, feed: Mapping[str, np.ndarray]) -> np.ndarray:
        """Run on inputs by name; return the output [1, ...]."""
        with torch.cuda.stream(self._stream):
            for name, value in feed.items():
                self.tensors[name].copy_(torch.from_numpy(np.ascontiguousarray(value)))
            self._graph.replay()
            return self.output.cpu().numpy()

    def layers(self, trt: ModuleType) -> list[Layer]:
        """Return the engine's layers with the type of what they put out."""
        inspector = self.engine.create_engine_inspector()
        told = json.loads(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
        return [Layer(layer['Name'], layer.get('LayerType', ''), _dtype(layer))
                for layer in told.get('Layers', []) if isinstance(layer, dict)]


def _dtype(layer: Mapping[str, Any]) -> str:
    names = {'Half': 'float16', 'Float': 'float32', 'Int8': 'int8', 'FP8': 'fp8',
             'BFloat16': 'bfloat16'}
    told = Counter(str(o.get('Format/Datatype', o.get('Format', ''))).split()[-1]
                   for o in [*layer.get('Inputs', []), *layer.get('Outputs', [])])
    found = [short for long, short in names.items() if any(long in t for t in told)]
    return 'int8' if 'int8' in found else found[0] if found else 'unknown'


class TensorRTEngine:
    """Encoder and Denoiser on the GPU."""

    name = 'tensorrt'

    def __init__(self, bundle: Bundle, threads: int = 1) -> None:
        trt = load_tensorrt()
        check_types(bundle, torch.cuda.get_device_capability())
        logger, self._precond = make_logger(trt), bundle.spec.precond
        timing = cache.folder() / f'timing-{trt.__version__}'
        before = torch.cuda.mem_get_info()[0]
        self._networks: dict[str, Network] = {}
        for part in [f'encoder_{camera.name}' for camera in bundle.spec.cameras] + ['denoiser']:
            path = bundle.path(f'{part}.onnx')
            plan = cache.load_or_build(f'{bundle.spec.name}-{part}', facts(trt, bundle, part),
                                       partial(build, trt, path, logger, timing))
            self._networks[part] = Network(trt, plan, logger)
        self.device_bytes = before - torch.cuda.mem_get_info()[0]
        self.executed = {part: net.layers(trt) for part, net in self._networks.items()}
        self.dtypes = {part: summary(layers) for part, layers in self.executed.items()}

    def encode(self, camera: str, image: np.ndarray) -> np.ndarray:
        """Encode float32 [3, h, w] to float32 [L]."""
        return self._networks[f'encoder_{camera}']({'image': image[None]})[0]

    def network(self, x: np.ndarray, c_noise: float, cond: np.ndarray,
                *c_stop: float) -> np.ndarray:
        """Run the raw network: x float32 [H, A], cond float32 [C] to float32 [H, A]."""
        levels = {name: np.array([level], np.float32)
                  for name, level in zip(('c_noise', 'c_stop'), (c_noise, *c_stop))}
        return self._networks['denoiser']({'x': x[None], 'cond': cond[None], **levels})[0]

    def denoise(self, x: np.ndarray, sigma: float, cond: np.ndarray,
                stop: float = 0.0) -> np.ndarray:
        """Estimate the clean chunk, float64 [H, A]."""
        return denoise(self.network, self._precond, x, sigma, cond, stop)
