"""The CPU engine: ONNX Runtime over the bundle's exported graphs."""

from __future__ import annotations

import numpy as np
import onnxruntime

from diffusion_policy_rt.engines.bundle import Bundle
from diffusion_policy_rt.errors import EngineError
from diffusion_policy_rt.runtime.precond import denoise


def _session(bundle: Bundle, graph: str, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # idle workers must sleep, not spin: the tick and the camera callbacks need the cores
    options.add_session_config_entry('session.intra_op.allow_spinning', '0')
    try:
        return onnxruntime.InferenceSession(
            str(bundle.path(f'{graph}.onnx')), options, providers=['CPUExecutionProvider'])
    except Exception as error:  # onnxruntime's errors share no narrower base
        raise EngineError(f'onnxruntime cannot load {graph}.onnx: {error}') from error


class OnnxEngine:
    """Encoder and Denoiser on the CPU. One thread per product has the better tail by default."""

    name = 'onnxruntime'

    def __init__(self, bundle: Bundle, threads: int = 1) -> None:
        self._precond = bundle.spec.precond
        self._encoders = {camera.name: _session(bundle, f'encoder_{camera.name}', threads)
                          for camera in bundle.spec.cameras}
        self._denoiser = _session(bundle, 'denoiser', threads)
        sessions = {f'encoder_{n}': s for n, s in self._encoders.items()}
        sessions['denoiser'] = self._denoiser
        self.dtypes = {name: session.get_inputs()[0].type[7:-1].replace('float', 'float32')
                       for name, session in sessions.items()}

    def encode(self, camera: str, image: np.ndarray) -> np.ndarray:
        """Encode float32 [3, h, w] to float32 [L]."""
        return self._encoders[camera].run(None, {'image': image[None]})[0][0]

    def network(self, x: np.ndarray, c_noise: float, cond: np.ndarray,
                *c_stop: float) -> np.ndarray:
        """Run the raw network: x float32 [H, A], cond float32 [C] to float32 [H, A]."""
        levels = {name: np.array([level], np.float32)
                  for name, level in zip(('c_noise', 'c_stop'), (c_noise, *c_stop))}
        return self._denoiser.run(None, {'x': x[None], 'cond': cond[None], **levels})[0][0]

    def denoise(self, x: np.ndarray, sigma: float, cond: np.ndarray,
                stop: float = 0.0) -> np.ndarray:
        """Estimate the clean chunk, float64 [H, A]."""
        return denoise(self.network, self._precond, x, sigma, cond, stop)
