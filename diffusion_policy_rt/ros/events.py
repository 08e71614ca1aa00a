"""What `~/events` tells, as JSON: where a run began, ended, was reset, and what plans had seen.

A recording of it lets `dprt replay` do again what the node did, although the recorder heard each
message at another moment than the node. Loads no ROS.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import isfinite

from diffusion_policy_rt.errors import DataError
from diffusion_policy_rt.runtime.driver import ACT, ALIGN, PLAN, RESET, START
from diffusion_policy_rt.runtime.observation import ROBOT
from diffusion_policy_rt.runtime.plan import Fate

STOP = 'stop'
__all__ = ['ACT', 'ALIGN', 'PLAN', 'RESET', 'START', 'STATE', 'STOP', 'Event', 'driver_event',
           'parse_event']
STATE = 'state'
"""The robot state among the streams of an event."""


@dataclass(frozen=True)
class Event:
    """A change of what the node does; instants in ns, in the epoch of the stamps."""

    kind: str
    """`start` (or armed anew, where it ran), `stop`, `reset`, `plan`, `act` or `align`."""
    at_ns: int
    """When it happened; the tick that was planned for, that acted, or the first to be aligned."""
    asked_ns: int
    """A reset waits for the plan in flight: when it was asked for. Else `at_ns`."""
    newest: Mapping[str, int] = field(default_factory=dict)
    """The newest stamp that had come, or a plan saw, by camera and of the `state` [ns]."""
    held: Sequence[float] | None = None
    """The hold that was published because of it, [A] in units; None where none was."""
    fate: Fate | None = None
    """What became of a plan, as a list in JSON; None for other events."""
    measured: Sequence[float | None] | None = None
    """Where the robot was, from which the limits of a tick's action count, or its hold, [A] in
    units; None, of single ones too, where nothing was measured."""

    def to_json(self) -> str:
        """Return the data of the message."""
        return json.dumps(asdict(self))


def driver_event(kind: str, at_ns: int, newest: Mapping[str, int], asked_ns: int | None = None,
                 held: Sequence[float] | None = None, fate: Fate | None = None,
                 measured: Iterable[float] | None = None) -> Event:
    """Return the event that a `Driver` tells of."""
    named = {STATE if name == ROBOT else name: stamp for name, stamp in newest.items()}
    at = None if measured is None else [v if isfinite(v) else None for v in map(float, measured)]
    return Event(kind, at_ns, at_ns if asked_ns is None else asked_ns, named, held, fate, at)


def parse_event(text: str) -> Event:
    """Undo `Event.to_json`; DataError for what is none."""
    try:
        event = Event(**json.loads(text))
        return replace(event, fate=Fate(*event.fate)) if event.fate else event
    except (TypeError, ValueError) as error:
        raise DataError(f'{text!r} is no event of a policy node') from error
