"""One graph of all steps against one call per step: time, and how far the chunks differ."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, cast

import numpy as np
from diffusion_policy_rt.engines.bundle import Bundle, read_bundle
from diffusion_policy_rt.engines.load import load_engine
from diffusion_policy_rt.engines.timing import take_turns
from diffusion_policy_rt.replay.bench import bar
from diffusion_policy_rt.replay.fused import open_fused
from diffusion_policy_rt.runtime.sampler import sample

NAME = 'onnxruntime'


class Fresh:
    """Stands for a generator whose numbers are those of `noise`, one entry per draw."""

    def __init__(self, noise: Sequence[np.ndarray]) -> None:
        self._left = iter(noise)

    def standard_normal(self, shape: tuple[int, ...]) -> np.ndarray:
        """Return the next entry."""
        return next(self._left).reshape(shape)


def pair(bundle: Bundle, steps: int, threads: int) -> tuple[Callable[[], np.ndarray], ...]:
    """Return two calls for the same chunk: a call per step, and one of the fused graph."""
    spec, rng = bundle.spec, np.random.default_rng(0)
    engine, fused = load_engine(bundle, NAME, threads), open_fused(bundle, steps, threads)
    schedule, cond = spec.schedule(steps), rng.standard_normal(spec.cond_dim).astype(np.float32)
    noise, *fresh = rng.standard_normal((steps + 1, spec.horizon, len(spec.action)))

    def apart() -> np.ndarray:
        rng = cast(np.random.Generator, Fresh(fresh))
        return sample(lambda x, sigma, stop: engine.denoise(x, sigma, cond, stop), schedule,
                      noise, spec.precond.sigma_data, spec.clip, rng)

    start = 0.0 if schedule.kind == 'point' else np.hypot(
        schedule.sigmas[0], spec.precond.sigma_data)
    given = [np.asarray(a, np.float32) for a in ((start * noise)[None], cond[None], fresh)]
    return apart, partial(fused, *given)


def bench_fused(policies: Sequence[str], steps: Sequence[int], threads: Sequence[int],
                repeats: int, progress: Callable[[range], Iterable[int]] = bar
                ) -> list[dict[str, Any]]:
    """Return one row per policy, step count and thread count; the two forms take turns."""
    rows = []
    for bundle in map(read_bundle, policies):
        for count in threads:
            for n in steps:
                apart, fused = pair(bundle, n, count)
                expected = apart()
                difference = np.abs(fused()[0] - expected).max() / np.abs(expected).max()
                times = [np.array(t) for t in take_turns([apart, fused], repeats, progress)]
                p50 = [float(np.median(t)) for t in times]
                rows.append({
                    'what': 'fused', 'policy': bundle.spec.name, 'engine': NAME,
                    'dtype': str(bundle.dtypes.get('denoiser', 'fp32')), 'steps': n,
                    'threads': count, 'p50_s': p50[1], 'p99_s': float(np.percentile(times[1], 99)),
                    'apart_p50_s': p50[0], 'apart_p99_s': float(np.percentile(times[0], 99)),
                    'ratio': float(np.median(times[1] / times[0])),
                    'difference': float(difference)})
    return rows
