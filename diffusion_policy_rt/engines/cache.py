"""Engines that were built on this machine: whole, of today's bundle and driver, or not used."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from diffusion_policy_rt.errors import EngineError
from diffusion_policy_rt.files import whole_file

MAGIC = b'dprt-engine-1\n'
log = logging.getLogger(__name__)


def folder() -> Path:
    """Return where built engines are kept: `diffusion_policy_rt` in the user's cache folder."""
    base = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    return Path(base) / 'diffusion_policy_rt'


def key(facts: Mapping[str, str]) -> str:
    """Return a name for everything that a built engine depends on."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def load_or_build(name: str, facts: Mapping[str, str], build: Callable[[], bytes],
                  where: Path | None = None) -> bytes:
    """Return the engine built for these facts, from the cache or, if need be, built and kept.

    A file that is damaged, or was made for other facts, is told and built anew. It is replaced
    whole: a kill during the build leaves the old one.
    """
    path = (where or folder()) / f'{name}-{key(facts)[:16]}.engine'
    try:
        return unpack(path.read_bytes(), facts)
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        log.warning('%s is built anew: %s', path, error)
    plan = build()
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path, EngineError) as partial:
        partial.write_bytes(pack(plan, facts))
    return plan


def pack(plan: bytes, facts: Mapping[str, str]) -> bytes:
    """Return the file's content: what it was built for, its hash, the engine."""
    head = json.dumps({'facts': dict(facts), 'sha256': hashlib.sha256(plan).hexdigest()},
                      sort_keys=True).encode()
    return MAGIC + len(head).to_bytes(8, 'little') + head + plan


def unpack(data: bytes, facts: Mapping[str, str]) -> bytes:
    """Return the engine in a file; ValueError says why it cannot be used."""
    if not data.startswith(MAGIC):
        raise ValueError('it is no engine of this package')
    start = len(MAGIC) + 8
    size = int.from_bytes(data[len(MAGIC):start], 'little')
    head = json.loads(data[start:start + size])
    plan = data[start + size:]
    odd = sorted(k for k in {*facts, *head['facts']} if facts.get(k) != head['facts'].get(k))
    if odd:
        raise ValueError(f'it was built for {odd[0]} {head["facts"].get(odd[0])}, not '
                         f'{facts.get(odd[0])}')
    if hashlib.sha256(plan).hexdigest() != head['sha256']:
        raise ValueError('it is damaged')
    return plan
