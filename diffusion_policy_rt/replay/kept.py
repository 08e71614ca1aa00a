"""Results kept on disk under what determines them, so that a run that was killed goes on.

A bundle that was trained anew, another sampler or another engine is another file.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusion_policy_rt.engines.bundle import read_bundle
from diffusion_policy_rt.errors import DataError
from diffusion_policy_rt.files import whole_file
from diffusion_policy_rt.replay.evaluate import NEAREST, RANDOM, Evaluation, sampled
from diffusion_policy_rt.replay.nearest import Demonstrations


def identity(what: Evaluation, engine: str) -> dict[str, Any]:
    """Return everything that an episode of `what` depends on but its seed, as JSON data.

    Not the bundle's own digest, which changes when it is evaluated or described anew; `engine` is
    the name of the one that runs.
    """
    facts = {'execute': what.execute, 'delay': what.delay, 'noise_seed': what.noise_seed}
    if what.policy == RANDOM:
        return {'policy': RANDOM}
    if what.policy == NEAREST:
        assert what.demonstrations is not None
        return {'policy': NEAREST, 'data': data_digest(what.demonstrations), **facts}
    bundle = read_bundle(what.policy)
    spec, steps = sampled(bundle, what)
    only = dataclasses.replace(spec, schedules={steps: spec.schedule(steps)})
    return {'spec': only.to_json(), 'engine': engine, **facts,
            'files': {name: entry['sha256'] for name, entry in bundle.files.items()}}


def data_digest(demonstrations: Demonstrations) -> str:
    """Return the SHA-256 of what `nearest` looks up."""
    parts = (getattr(demonstrations, f.name) for f in dataclasses.fields(demonstrations))
    return hashlib.sha256(b''.join(part.tobytes() for part in parts)).hexdigest()


class Kept:
    """One folder of JSON files, each named by its kind and the digest of its key."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, kind: str, key: Mapping[str, Any]) -> Path:
        """Return where the result of this kind and key is kept."""
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        return self._folder / f'{kind}-{digest[:16]}.json'

    def read(self, kind: str, key: Mapping[str, Any]) -> Any:
        """Return what is kept, or None; DataError for a file that is damaged."""
        path = self.path(kind, key)
        if not path.is_file():
            return None
        try:
            return json.loads(path.read_text())['result']
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise DataError(f'{path} is damaged; remove it, and it is made anew') from error

    def write(self, kind: str, key: Mapping[str, Any], result: Any) -> None:
        """Keep a result, whole or not at all, beside its key."""
        path = self.path(kind, key)
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as partial:
            partial.write_text(json.dumps({'key': key, 'result': result}) + '\n')
