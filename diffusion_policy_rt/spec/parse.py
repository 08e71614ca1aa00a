"""From JSON to frozen dataclasses: what is unknown, missing or of another type is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from diffusion_policy_rt.errors import SpecError

T = TypeVar('T')
KINDS: Mapping[str, tuple[type, ...]] = {
    'int': (int,), 'float': (int, float), 'str': (str,), 'bool': (bool,)}
"""What JSON may hold in a field of this annotation."""


def as_tuple(values: Sequence[Any], kind: type) -> tuple[Any, ...]:
    """Return the list's values, each made a `kind`; TypeError for what is no list."""
    if isinstance(values, str):
        raise TypeError(f'expected a list, found {values!r}')
    return tuple(kind(value) for value in values)


def build(cls: type[T], data: Mapping[str, Any], where: str) -> T:
    """Build the dataclass `cls` from JSON, refusing keys that it does not know or lacks."""
    if not isinstance(data, Mapping):
        raise SpecError(f'{where}: expected an object, found {type(data).__name__}')
    known = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(data) - set(known))
    if unknown:
        raise SpecError(f'{where}: unknown key {unknown[0]!r}; known keys: {", ".join(known)}')
    missing = [n for n, f in known.items() if n not in data and f.default is dataclasses.MISSING
               and f.default_factory is dataclasses.MISSING]
    if missing:
        raise SpecError(f'{where}: key {missing[0]!r} is missing')
    for name, value in data.items():
        kinds = KINDS.get(str(known[name].type))
        # a bool is an int to Python, not to us
        if kinds and (not isinstance(value, kinds)
                      or isinstance(value, bool) and bool not in kinds):
            raise SpecError(f'{where}: {name} must be of type {known[name].type}, found {value!r}')
    try:
        return cls(**data)
    except (TypeError, ValueError) as error:
        raise SpecError(f'{where}: {error}') from error
