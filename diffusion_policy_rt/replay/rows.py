"""The rows of a table of policies, read from YAML: what is held against which reference."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusion_policy_rt.errors import DataError
from diffusion_policy_rt.replay.evaluate import NEAREST, RANDOM, Evaluation
from diffusion_policy_rt.replay.nearest import Demonstrations
from diffusion_policy_rt.runtime.variants import Variant
from diffusion_policy_rt.share import read_yaml
from diffusion_policy_rt.spec import build


@dataclasses.dataclass(frozen=True)
class Row:
    """One policy, sampled in one way."""

    label: str
    policy: str
    """Bundle folder, the name of a shipped bundle, or a floor: `random`, `nearest`."""
    steps: int = 0
    """Network calls per plan; 0 takes the most that the bundle serves up to 8."""
    sampler: str = ''
    """A sampler in place of the bundle's own schedule; empty: the bundle's."""
    start: float = 0.0
    noise_scale: float | None = None
    execute: int = 0
    delay: int = 0
    make: str = ''
    """The command that makes the bundle, told where it is missing."""

    def __post_init__(self) -> None:
        if not self.sampler and (self.start or self.noise_scale is not None):
            raise DataError(f'row {self.name}: start and noise_scale belong to a sampler')

    @property
    def name(self) -> str:
        """The label with the steps, which tells the rows apart."""
        return f'{self.label}, steps {self.steps}' if self.steps else self.label

    @property
    def floor(self) -> bool:
        """Whether it is no bundle."""
        return self.policy in (RANDOM, NEAREST)

    def evaluation(self, engine: str, demonstrations: Demonstrations | None = None) -> Evaluation:
        """Return what `dprt eval` would run for this row."""
        variant = Variant(self.sampler, self.start, self.noise_scale) if self.sampler else None
        return Evaluation(self.policy, self.steps, engine, self.delay, self.execute,
                          variant=variant,
                          demonstrations=demonstrations if self.policy == NEAREST else None)


@dataclasses.dataclass(frozen=True)
class Table:
    """The rows, and the one that all are held against."""

    title: str
    rows: tuple[Row, ...]
    reference: Row
    text: str = ''
    """Markdown put under the title."""


def load_table(name: str | Path) -> Table:
    """Read a table's YAML: a file, or a shipped one by its name.

    `rows` is a list of `Row`s, where `steps` may be a list: a row each. `reference` is the label
    of a row of one step count. Raises SpecError or DataError with the first thing that is wrong.
    """
    data = dict(read_yaml(name, 'table'))
    listed = data.get('rows')
    if not isinstance(listed, list) or not listed:
        raise DataError(f'table {name}: rows must be a list of rows')
    rows = tuple(row for i, entry in enumerate(listed) for row in expand(entry, f'rows[{i}]'))
    names = [row.name for row in rows]
    double = next((n for n in names if names.count(n) > 1), None)
    if double:
        raise DataError(f'table {name}: the row {double!r} stands twice; give it another label')
    chosen = [row for row in rows if row.label == data.get('reference')]
    if len(chosen) != 1 or chosen[0].floor:
        raise DataError(f'table {name}: reference must be the label of one bundle in one step '
                        f'count, found {data.get("reference")!r}')
    return build(Table, {'title': '', **data, 'rows': rows, 'reference': chosen[0]}, 'table')


def expand(entry: Mapping[str, Any], where: str) -> list[Row]:
    """Return one row per step count of an entry."""
    counts = entry.get('steps') if isinstance(entry, Mapping) else None
    if not isinstance(counts, list):
        return [build(Row, entry, where)]
    return [build(Row, {**entry, 'steps': n}, where) for n in counts]
