"""One parameter of the policy node: what is accepted, and what it means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from diffusion_policy_rt.runtime.guard import ON_STALE

KINDS = {bool: 'bool', int: 'integer', float: 'double', str: 'string', list: 'string array'}


@dataclass(frozen=True)
class Param:
    """One parameter."""

    name: str
    default: Any
    description: str
    """A sentence, with the unit in brackets."""
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    live: bool = False
    """Whether it can be set while the node runs; else it is read-only."""

    @property
    def range(self) -> str:
        """Say what is accepted, for people."""
        if self.choices:
            return ', '.join(self.choices)
        return '' if self.low is None else f'{self.low:.10g} .. {self.high:.10g}'

    @property
    def kind(self) -> str:
        """The ROS name of its type."""
        return KINDS[type(self.default)]


def stale_params(prefix: str, stream: str) -> list[Param]:
    """Return the parameters that say what happens while a stream is stale."""
    return [
        Param(f'{prefix}.on_stale', 'drop',
              f'While {stream} is stale or unfit: drop plans and follow the chunk to its end; '
              'hold at once; or halt, which is one hold and then silence until ~/start.',
              choices=ON_STALE),
        Param(f'{prefix}.hold_ticks', 10,
              f'Ticks on hold after which {stream} is given up and the robot halted.', 1,
              1_000_000)]
