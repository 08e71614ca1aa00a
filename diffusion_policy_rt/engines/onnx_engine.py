"""The CPU engine: ONNX Runtime over the bundle's exported graphs."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import starmap
from pathlib import Path

import numpy as np
import onnxruntime

from diffusion_policy_rt.engines.bundle import (
    GEOMETRY, HEAD, SPLIT, WEIGHTS, Bundle, masked_part, stage_part)
from diffusion_policy_rt.engines.cpu import saturates
from diffusion_policy_rt.engines.executed import (
    check_executed, check_types, read_profile, summary)
from diffusion_policy_rt.engines.pages import use_huge_pages
from diffusion_policy_rt.engines.weights import (
    check_scales, part_of, read_header)
from diffusion_policy_rt.errors import EngineError
from diffusion_policy_rt.runtime.blocks import Blockwise, blockwise, names, read_schedules
from diffusion_policy_rt.runtime.conditioned import Conditioned
from diffusion_policy_rt.runtime.ports import Layer, Stage, Staged
from diffusion_policy_rt.runtime.precond import denoise
from diffusion_policy_rt.runtime.receptive import ReceptiveField
from diffusion_policy_rt.spec import Schedule


SPIN_US = '200'
"""How long a worker waits awake for its part of the next product, within a call [us]."""


def make_session(graph: Path, threads: int, profile: str = '',
                 any_size: bool = False) -> onnxruntime.InferenceSession:
    """Load a graph; EngineError where ONNX Runtime cannot. `profile` begins a profile's path.

    `any_size` tells that inputs are seldom of one size.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # or the memory would be laid out anew for each size
    options.enable_mem_pattern = not any_size
    # between calls workers must sleep: the tick and the camera callbacks need the cores
    options.add_session_config_entry('session.force_spinning_stop', '1')
    options.add_session_config_entry('session.intra_op.spin_duration_us', SPIN_US)
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
    """Encoder and Denoiser on the CPU. One thread per product has the better tail by default.

    The denoiser runs in its parts where the bundle has them, unless it is asked for as a whole.
    """

    name = 'onnxruntime'

    def __init__(self, bundle: Bundle, threads: int = 1, whole: bool = False) -> None:
        check_types(bundle)
        self._bundle, self._threads = bundle, threads
        self._precond = bundle.spec.precond
        stored = read_header(bundle.path(WEIGHTS))[0]
        check_scales(bundle.path(WEIGHTS), stored)
        self.sessions: dict[str, onnxruntime.InferenceSession] = {}
        self.executed: dict[str, list[Layer]] = {}
        in_parts = not whole and all(f'{part}.onnx' in bundle.files for part in SPLIT)
        for part in [f'encoder_{camera.name}' for camera in bundle.spec.cameras] + ['denoiser']:
            graphs = SPLIT if in_parts and part == 'denoiser' else (part,)
            self.executed[part] = [layer for graph in graphs for layer in self._open(graph)]
            check_executed(part, self.executed[part], part_of(part, stored))
        self.conditioned = Conditioned(self._level, self._observed, self._step) if (
            in_parts) else None
        self._schedules, self.blocks = read_schedules(bundle.blocks), Counter[str]()
        self._steps: dict[str, onnxruntime.InferenceSession] = {}
        for fresh in {call for found in self._schedules.values() for call in found.fresh}:
            bundle.path(f'{masked_part(fresh)}.onnx')  # opened when first needed, missed now
        self.dtypes = {part: summary(layers) for part, layers in self.executed.items()}
        use_huge_pages()

    def _open(self, graph: str) -> list[Layer]:
        """Load a graph; return its products."""
        path = self._bundle.path(f'{graph}.onnx')
        self.sessions[graph], layers = open_graph(path, self._threads)
        return layers

    def run(self, part: str, feed: Mapping[str, np.ndarray]) -> np.ndarray:
        """Run a part, `encoder_<camera>` or `denoiser`, on inputs by name; return its [1, ...]."""
        return self.sessions[part].run(None, dict(feed))[0]

    def encode(self, camera: str, image: np.ndarray) -> np.ndarray:
        """Encode float32 [3, h, w] to float32 [L]."""
        return self.run(f'encoder_{camera}', {'image': image[None]})[0]

    def network(self, x: np.ndarray, c_noise: float, cond: np.ndarray,
                *c_stop: float) -> np.ndarray:
        """Run the raw network: x float32 [H, A], cond float32 [C] to float32 [H, A]."""
        if self.conditioned is not None:
            return self.conditioned(x, c_noise, cond, *c_stop)
        return self.run('denoiser', {'x': x[None], 'cond': cond[None],
                                     **levels(c_noise, *c_stop)})[0]

    def _level(self, c_noise: float, *c_stop: float) -> np.ndarray:
        return self.run(SPLIT[0], levels(c_noise, *c_stop))

    def _observed(self, cond: np.ndarray) -> np.ndarray:
        return self.run(SPLIT[1], {'cond': cond[None]})

    def _step(self, x: np.ndarray, level: np.ndarray, observed: np.ndarray) -> np.ndarray:
        return self.run(SPLIT[2], {'x': x[None], 'level': level, 'observed': observed})[0]

    def denoise(self, x: np.ndarray, sigma: float, cond: np.ndarray,
                stop: float = 0.0) -> np.ndarray:
        """Estimate the clean chunk, float64 [H, A]."""
        return denoise(self.network, self._precond, x, sigma, cond, stop)

    def blockwise(self, schedule: Schedule) -> Blockwise | None:
        """Return the denoiser of one plan; None for levels that the bundle has no blocks for."""
        return blockwise(self._schedules, schedule, self._precond, self.conditioned, self._masked,
                         self.blocks)

    def _masked(self, fresh: str, x: np.ndarray, level: np.ndarray, observed: np.ndarray,
                kept: list[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
        if fresh not in self._steps:
            self._steps[fresh] = make_session(
                self._bundle.path(f'{masked_part(fresh)}.onnx'), self._threads)
        session = self._steps[fresh]
        feed = {'x': x[None], 'level': level, 'observed': observed,
                **dict(zip(names(fresh)[0], kept))}
        # a step that computes no branch is not told the level
        output, *made = session.run(None, {i.name: feed[i.name] for i in session.get_inputs()})
        return output[0], made

    def staged(self, camera: str) -> Staged | None:
        """Return the camera's encoder as its stages; None for a bundle that has none of them."""
        stages: list[Stage] = []
        while (name := f'{stage_part(camera, len(stages))}.onnx') in self._bundle.files:
            session = make_session(self._bundle.path(name), self._threads, any_size=True)
            told = session.get_modelmeta().custom_metadata_map
            fields = zip(*(map(int, told[key].split()) for key in GEOMETRY))
            stages.append(Stage(tuple(starmap(ReceptiveField, fields)), runner(session)))
        if not stages:
            return None
        head = make_session(self._bundle.path(f'{stage_part(camera, HEAD)}.onnx'), self._threads)
        return Staged(tuple(stages), runner(head))


def levels(c_noise: float, *c_stop: float) -> dict[str, np.ndarray]:
    """Return the levels as inputs by name."""
    return {name: np.array([level], np.float32)
            for name, level in zip(('c_noise', 'c_stop'), (c_noise, *c_stop))}


def runner(session: onnxruntime.InferenceSession) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from the only input to the only output, both without the batch."""
    (entry,) = session.get_inputs()
    return lambda x: session.run(None, {entry.name: x[None]})[0][0]
