"""States and actions: named values with units, bounds and the network's range."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np

from diffusion_policy_rt.errors import SpecError
from diffusion_policy_rt.spec.parse import as_tuple


@dataclass(frozen=True)
class VectorSpec:
    """A named vector: a unit and bounds per value, and the affine map to the network's range."""

    names: tuple[str, ...]
    units: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    offset: tuple[float, ...]
    """Subtracted before scaling, in units."""
    scale: tuple[float, ...]
    """Divides after the offset is subtracted, in units per normalised unit."""

    def __post_init__(self) -> None:
        for name in ('names', 'units'):
            object.__setattr__(self, name, as_tuple(getattr(self, name), str))
        for name in ('low', 'high', 'offset', 'scale'):
            object.__setattr__(self, name, as_tuple(getattr(self, name), float))
        lengths = {f.name: len(getattr(self, f.name)) for f in dataclasses.fields(VectorSpec)}
        if len(set(lengths.values())) != 1 or not self.names:
            raise SpecError(f'vector {self.names}: lengths differ: {lengths}')
        if len(set(self.names)) != len(self.names):
            raise SpecError(f'vector {self.names}: a name stands twice')
        if not all(math.isfinite(v) for v in (*self.offset, *self.scale)) or min(self.scale) <= 0:
            raise SpecError(f'vector {self.names}: offset must be finite, scale above zero')
        if any(not lo < hi for lo, hi in zip(self.low, self.high)):
            raise SpecError(f'vector {self.names}: low must lie below high')

    def __len__(self) -> int:
        return len(self.names)

    def normalise(self, values: np.ndarray) -> np.ndarray:
        """Map [..., D] in units to the network's range."""
        return (values - np.asarray(self.offset)) / np.asarray(self.scale)

    def denormalise(self, values: np.ndarray) -> np.ndarray:
        """Map [..., D] from the network's range to units: the inverse of `normalise`."""
        return values * np.asarray(self.scale) + np.asarray(self.offset)

    def validate(self, values: np.ndarray) -> None:
        """Raise SpecError unless `values` is a finite [D] vector."""
        if values.shape != (len(self),):
            raise SpecError(f'expected {len(self)} values {self.names}, '
                            f'found shape {values.shape}')
        bad = [name for name, value in zip(self.names, values) if not math.isfinite(value)]
        if bad:
            raise SpecError(f'{bad[0]} is not finite; check the driver that publishes it')

    def example(self) -> np.ndarray:
        """Return a valid vector, float32 [D]: the offset, within the bounds."""
        return np.clip(self.offset, self.low, self.high).astype(np.float32)


@dataclass(frozen=True)
class ActionSpec(VectorSpec):
    """An action vector; with reference `state` the network's actions count from the state."""

    reference: str = 'absolute'
    """`absolute`, or `state`: counted from the newest observed state of the same names."""
    stride: float = 0.0
    """How far an action lies from the one before it in the data, 99th percentile, Euclidean in
    the network's range; 0 where it is not known."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.stride < math.inf:
            raise SpecError(f'action stride {self.stride:g} must not be negative or infinite')
        if self.reference not in ('absolute', 'state'):
            raise SpecError(f'action reference {self.reference!r}: use absolute or state')
