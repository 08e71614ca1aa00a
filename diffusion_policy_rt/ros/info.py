"""What `~/policy_info` tells: enough to know from a bag which policy drove the robot, and how."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from diffusion_policy_rt.engines.bundle import Bundle
from diffusion_policy_rt.engines.caching import Caching
from diffusion_policy_rt.runtime.ports import Engine
from diffusion_policy_rt.runtime.settings import LoopSettings


def policy_info(bundle: Bundle, engine: Engine, caching: Caching,
                plan_s: dict[int, dict[str, float | None]], settings: LoopSettings,
                changed: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Return JSON data.

    `plan_s` are the percentiles of the warm-up's plans per step count [s]; the settings those
    with which the node was configured, and `changed` its parameters that are not by default.
    """
    spec = bundle.spec
    return {
        'name': spec.name,
        'digest': bundle.digest,
        'folder': str(bundle.folder),
        'rate_hz': spec.rate,
        'n_obs': spec.n_obs,
        'horizon': spec.horizon,
        'action': list(spec.action.names),
        'steps': list(spec.steps),
        'engine': engine.name,
        'dtypes': dict(engine.dtypes),
        'layers': {part: {layer.name: layer.dtype for layer in layers}
                   for part, layers in engine.executed.items()},
        'stored_dtypes': dict(bundle.dtypes),
        'caches': caching.to_json(),
        'bits': {name: bits(str(dtype)) for name, dtype in bundle.dtypes.items()},
        'calibration': bundle.provenance.get('calibration'),
        'quality': dict(bundle.quality),
        'provenance': dict(bundle.provenance),
        'settings': asdict(settings),
        'parameters': dict(changed),
        'seed': seed,
        'plan_s': {str(steps): table for steps, table in plan_s.items()},
    }


def bits(dtype: str) -> int | None:
    """Return the width in the name of a data type, such as 8 for int8; None without one."""
    found = re.search(r'\d+', dtype)
    return int(found.group()) if found else None
