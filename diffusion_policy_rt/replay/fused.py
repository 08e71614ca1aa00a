"""All steps of a schedule as one ONNX graph, to be held against one call per step.

The denoiser's nodes are repeated, its weights are not; between the copies stands the arithmetic of
`runtime.precond` and `runtime.sampler`, in float32.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from diffusion_policy_rt.engines.bundle import WEIGHTS, Bundle
from diffusion_policy_rt.engines.onnx_engine import make_session
from diffusion_policy_rt.runtime.precond import coefficients, stop_noise
from diffusion_policy_rt.spec import PolicySpec, Schedule


def following(schedule: Schedule, number: int) -> tuple[float, float]:
    """Return what x - x0 and fresh noise are multiplied by on the way to the next level."""
    sigma, after = (*schedule.sigmas, 0.0)[number:number + 2]
    ratio, fresh = after / sigma, schedule.noise_scale * after
    if schedule.kind == 'renoise':
        return 0.0, fresh
    if schedule.kind == 'ancestral':
        return ratio**2, fresh * float(np.sqrt(1 - ratio**2))
    return ratio, 0.0


class Steps:
    """A graph that grows by nodes, and by copies of `network` that share its weights."""

    def __init__(self, network: onnx.GraphProto) -> None:
        self.network, self.nodes = network, list[onnx.NodeProto]()
        self.constants = list[onnx.TensorProto]()

    def constant(self, value: float, kind: type = np.float32) -> str:
        """Add a number [1], and return its name."""
        name = f'constant_{len(self.constants)}'
        self.constants.append(numpy_helper.from_array(np.array([value], kind), name))
        return name

    def add(self, operator: str, first: str, second: str | float) -> str:
        """Add a node of two inputs, and return the name of its output."""
        name = f'{operator}_{len(self.nodes)}'
        given = second if isinstance(second, str) else self.constant(second)
        self.nodes.append(helper.make_node(operator, [first, given], [name], name))
        return name

    def call(self, number: int, given: dict[str, str]) -> str:
        """Add a copy of the network with these inputs, and return the name of its output."""
        shared = {i.name: i.name for i in self.network.initializer} | given | {'': ''}
        for node in self.network.node:
            made = onnx.NodeProto()
            made.CopyFrom(node)
            made.name = node.name and f'{number}/{node.name}'
            made.input[:] = [shared.get(name, f'{number}/{name}') for name in node.input]
            made.output[:] = [name and f'{number}/{name}' for name in node.output]
            self.nodes.append(made)
        return f'{number}/{self.network.output[0].name}'

    def step(self, spec: PolicySpec, schedule: Schedule, number: int, x: str) -> tuple[str, str]:
        """Add one step from the sample called `x`; return the names of the next and of x0."""
        sigma, after = (*schedule.sigmas, 0.0)[number:number + 2]
        c_skip, c_out, c_in, c_noise = map(float, coefficients(spec.precond, sigma))
        given = {'x': self.add('Mul', x, c_in), 'cond': 'cond',
                 'c_noise': self.constant(c_noise)}
        if spec.precond.stop_time:
            given['c_stop'] = self.constant(float(stop_noise(spec.precond, after)))
        output = self.call(number, given)
        free = x0 = self.add('Add', self.add('Mul', x, c_skip), self.add('Mul', output, c_out))
        if spec.clip is not None:
            x0 = self.add('Max', self.add('Min', x0, spec.clip), -spec.clip)
        kept, noised = following(schedule, number)
        gone = self.add('Sub', x, free if schedule.kind == 'ddim_unclipped' else x0)
        fresh = self.add('Gather', 'fresh', self.constant(number, np.int64))
        return self.add('Add', self.add('Add', x0, self.add('Mul', gone, kept)),
                        self.add('Mul', fresh, noised)), x0


def fuse(network: onnx.ModelProto, spec: PolicySpec, steps: int) -> onnx.ModelProto:
    """Return the graph: x [1, H, A] at the first level, cond [1, C], fresh [n, H, A] to chunk."""
    made, schedule, x, x0 = Steps(network.graph), spec.schedule(steps), 'x', ''
    for number in range(steps):
        x, x0 = made.step(spec, schedule, number, x)
    made.nodes.pop()  # what would be the next sample
    size = (spec.horizon, len(spec.action))
    shapes = {'x': (1, *size), 'cond': (1, spec.cond_dim), 'fresh': (steps, *size), x0: (1, *size)}
    *inputs, output = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
                       for name, shape in shapes.items())
    graph = helper.make_graph(made.nodes, 'steps', inputs, [output],
                              [*network.graph.initializer, *made.constants])
    return helper.make_model(graph, opset_imports=network.opset_import,
                             ir_version=network.ir_version)


def open_fused(bundle: Bundle, steps: int,
               threads: int) -> Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]:
    """Return a function (x, cond, fresh) -> normalised chunk [1, H, A] that is one call."""
    with tempfile.TemporaryDirectory() as folder:
        network = onnx.load(str(bundle.path('denoiser.onnx')), load_external_data=False)
        path = Path(folder) / 'fused.onnx'
        path.write_bytes(fuse(network, bundle.spec, steps).SerializeToString())
        shutil.copyfile(bundle.path(WEIGHTS), Path(folder) / WEIGHTS)
        session = make_session(path, threads)
    return lambda x, cond, fresh: session.run(
        None, {'x': x, 'cond': cond, 'fresh': fresh})[0]
