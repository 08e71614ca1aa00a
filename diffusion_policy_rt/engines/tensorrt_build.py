"""Build a TensorRT engine from an exported graph: one way for versions 10, 11 and RTX.

The graph says every type (strongly typed import, explicit QDQ); shapes are static. `trt` is the
module `tensorrt` or `tensorrt_rtx`.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

from diffusion_policy_rt.errors import EngineError

WORKSPACE = 1 << 30
"""Most device memory that one layer may use while it runs [bytes]."""
OPTIONS = 'strongly typed, static shapes, 1 GiB workspace, no auxiliary streams'
"""What an engine is built with, as it stands in the key of the cache."""


def parse(trt: ModuleType, graph: Path, logger: Any) -> tuple[Any, Any, Any]:
    """Read a graph; return builder, network and parser, all of which the build needs alive.

    Raises EngineError with the parser's own first complaint.
    """
    builder = trt.Builder(logger)
    typed = getattr(trt.NetworkDefinitionCreationFlag, 'STRONGLY_TYPED', None)
    network = builder.create_network(0 if typed is None else 1 << int(typed))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(graph)):
        reason = parser.get_error(0).desc() if parser.num_errors else 'unknown reason'
        raise EngineError(f'tensorrt cannot read {graph.name}: {str(reason).splitlines()[0]}; '
                          'make its form with dprt quantize --engine tensorrt, or take '
                          'the fp32 bundle')
    return builder, network, parser


def build(trt: ModuleType, graph: Path, logger: Any, timing: Path | None = None,
          target: str = '') -> bytes:
    """Return the serialized engine of a graph; EngineError where TensorRT cannot build it.

    `timing` is a file that measurements of kernels are taken from and added to. `target` is the
    GPU that TensorRT for RTX builds for where it is not this machine's, as `SM120`.
    """
    builder, network, parser = parse(trt, graph, logger)
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE)
    config.max_aux_streams = 0  # one stream can be captured in a CUDA graph
    if target:
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, target), 0)
    cache = None
    if timing is not None:
        cache = config.create_timing_cache(timing.read_bytes() if timing.is_file() else b'')
        config.set_timing_cache(cache, ignore_mismatch=False)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(f'tensorrt cannot build {graph.name}; its log says why')
    if cache is not None and timing is not None:
        timing.parent.mkdir(parents=True, exist_ok=True)
        timing.write_bytes(bytes(config.get_timing_cache().serialize()))
    return bytes(plan)
