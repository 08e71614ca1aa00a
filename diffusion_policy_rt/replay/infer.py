"""One plan from arrays: the maths of the loop without time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from diffusion_policy_rt.errors import DataError, EngineError
from diffusion_policy_rt.runtime.clock import ManualClock
from diffusion_policy_rt.runtime.frame import Frame, to_input
from diffusion_policy_rt.runtime.loop import PolicyLoop
from diffusion_policy_rt.runtime.observation import Observation
from diffusion_policy_rt.runtime.ports import Engine
from diffusion_policy_rt.runtime.settings import LoopSettings
from diffusion_policy_rt.spec import PolicySpec


def _take(arrays: Mapping[str, np.ndarray], name: str, shape: tuple[int | None, ...],
          dtype: type) -> np.ndarray:
    if name not in arrays:
        raise DataError(f'the observation lacks {name!r}; it holds {sorted(arrays)}')
    array = arrays[name]
    fits = array.ndim == len(shape) and all(
        want in (None, have) for want, have in zip(shape, array.shape))
    if not fits or (array.dtype != np.uint8) == (dtype is np.uint8):
        raise DataError(f'{name}: expected {np.dtype(dtype)} {list(shape)}, '
                        f'found {array.dtype} {list(array.shape)}')
    if dtype is not np.uint8 and not np.isfinite(array).all():
        raise DataError(f'{name}: a value is not finite')
    return array


def infer(spec: PolicySpec, engine: Engine, arrays: Mapping[str, np.ndarray], noise: np.ndarray,
          steps: int, seed: int = 0, blocks: bool = False) -> np.ndarray:
    """Return the chunk, float32 [horizon, A] in units.

    `arrays` holds one uint8 [n_obs, H, W, 3] RGB per camera and `state` [n_obs, S] in units, both
    oldest first; `noise` is [horizon, A]. With `blocks` branches are kept between the calls, as
    the bundle tells. Raises DataError for arrays that do not fit the spec.
    """
    states = _take(arrays, 'state', (spec.n_obs, len(spec.state)), np.float32)
    noise = _take({'noise': noise}, 'noise', (spec.horizon, len(spec.action)), np.float32)
    unknown = set(arrays) - {c.name for c in spec.cameras} - {'state'}
    if unknown:
        raise DataError(f'the policy has no camera {sorted(unknown)[0]!r}; it has '
                        f'{[c.name for c in spec.cameras]}')
    frames = {c.name: tuple(Frame.of(c.name, k, rgb) for k, rgb in enumerate(
        _take(arrays, c.name, (spec.n_obs, None, None, 3), np.uint8))) for c in spec.cameras}
    spec.schedule(steps)
    loop = PolicyLoop(spec, engine, LoopSettings(
        control_rate=spec.rate, deadline=0.5 / spec.rate, min_steps=steps, max_steps=steps,
        observation_timeout=1 / spec.rate, action_timeout=2 / spec.rate), ManualClock(), seed)
    loop.keep(replace(loop.rules, blocks=blocks))
    latents = {name: [engine.encode(name, to_input(f.decode(), spec.camera(name))) for f in window]
               for name, window in frames.items()}
    chunk = loop.sample(Observation(0, frames, states.astype(float), 0), latents, steps, noise)
    if chunk is None:
        raise EngineError('the engine returned a value that is not finite')
    return chunk.actions
