"""The CPU engine: ONNX Runtime over the bundle's exported graphs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnxruntime

from diffusion_policy_rt.engines.bundle import (
    GEOMETRY, HEAD, WEIGHTS, Bundle, stage_part)
from diffusion_policy_rt.engines.cpu import saturates
from diffusion_policy_rt.engines.executed import (
    check_executed, check_types, read_profile, summary)
from diffusion_policy_rt.engines.weights import (
    check_scales, part_of, read_header)
from diffusion_policy_rt.errors import EngineError
from diffusion_policy_rt.runtime.ports import Layer, Stage, Staged
from diffusion_policy_rt.runtime.precond import denoise


def make_session(graph: Path, threads: int, profile: str = '') -> onnxruntime.InferenceSession:
    """Load a graph; EngineError where ONNX Runtime cannot. `profile` begins a profile's path."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # idle workers must sleep, not spin: the tick and the camera callbacks need the cores
    options.add_session_config_entry('session.intra_op.allow_spinning', '0')
    if saturates():
        options.add_session_config_entry('session.x64quantprecision', '1')
    if profile:
        options.enable_profiling, options.profile_file_prefix = True, profile
    try:
        return onnxruntime.InferenceSession(str(graph), options,
                                            providers=['CPUExecutionProvider'])
    except Exception as error:  # onnxruntime's errors share no narrower base
        raise EngineError(f'onnxruntime cannot load {graph.name}: {error}') from error


def open_graph(graph: Path, threads: int) -> tuple[onnxruntime.InferenceSession, list[Layer]]:
    """Load a graph, run it once and return it with the products that it executed."""
    with tempfile.TemporaryDirectory() as folder:
        session = make_session(graph, threads, str(Path(folder) / 'profile'))
        session.run(None, {i.name: np.zeros(i.shape, np.float32) for i in session.get_inputs()})
        return session, read_profile(Path(session.end_profiling()))


class OnnxEngine:
    """Encoder and Denoiser on the CPU. One thread per product has the better tail by default."""

    name = 'onnxruntime'

    def __init__(self, bundle: Bundle, threads: int = 1) -> None:
        check_types(bundle)
        self._bundle, self._threads = bundle, threads
        self._precond = bundle.spec.precond
        stored = read_header(bundle.path(WEIGHTS))[0]
        check_scales(bundle.path(WEIGHTS), stored)
        self.sessions: dict[str, onnxruntime.InferenceSession] = {}
        self.executed: dict[str, list[Layer]] = {}
        for part in [f'encoder_{camera.name}' for camera in bundle.spec.cameras] + ['denoiser']:
            made = open_graph(bundle.path(f'{part}.onnx'), threads)
            self.sessions[part], self.executed[part] = made
            check_executed(part, self.executed[part], part_of(part, stored))
        self.dtypes = {part: summary(layers) for part, layers in self.executed.items()}

    def run(self, part: str, feed: Mapping[str, np.ndarray]) -> np.ndarray:
        """Run `encoder_<camera>` or `denoiser` on inputs by name; return its output [1, ...]."""
        return self.sessions[part].run(None, dict(feed))[0]

    def encode(self, camera: str, image: np.ndarray) -> np.ndarray:
        """Encode float32 [3, h, w] to float32 [L]."""
        return self.run(f'encoder_{camera}', {'image': image[None]})[0]

    def network(self, x: np.ndarray, c_noise: float, cond: np.ndarray,
                *c_stop: float) -> np.ndarray:
        """Run the raw network: x float32 [H, A], cond float32 [C] to float32 [H, A]."""
        levels = {name: np.array([level], np.float32)
                  for name, level in zip(('c_noise', 'c_stop'), (c_noise, *c_stop))}
        return self.run('denoiser', {'x': x[None], 'cond': cond[None], **levels})[0]

    def denoise(self, x: np.ndarray, sigma: float, cond: np.ndarray,
                stop: float = 0.0) -> np.ndarray:
        """Estimate the clean chunk, float64 [H, A]."""
        return denoise(self.network, self._precond, x, sigma, cond, stop)

    def staged(self, camera: str) -> Staged | None:
        """Return the camera's encoder as its layers; None for a bundle that has none of them."""
        stages: list[Stage] = []
        while (name := f'{stage_part(camera, len(stages))}.onnx') in self._bundle.files:
            session = make_session(self._bundle.path(name), self._threads)
            told = session.get_modelmeta().custom_metadata_map
            extent, stride, margin = (int(told[key]) for key in GEOMETRY)
            stages.append(Stage(extent, stride, margin, runner(session)))
        if not stages:
            return None
        head = make_session(self._bundle.path(f'{stage_part(camera, HEAD)}.onnx'), self._threads)
        return Staged(tuple(stages), runner(head))


def runner(session: onnxruntime.InferenceSession) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from the only input to the only output, both without the batch."""
    (entry,) = session.get_inputs()
    return lambda x: session.run(None, {entry.name: x[None]})[0][0]
