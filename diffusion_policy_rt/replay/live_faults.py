"""The faults that `dprt soak --faults` puts into a running node: what, where, under which rule."""

from __future__ import annotations

import signal
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from builtin_interfaces.msg import Time
from sensor_msgs.msg import Image, JointState

from diffusion_policy_rt.replay.faulty_node import HANGS, NOT_FINITE, RAISES

GREY = 90


def black(msg: Image) -> None:
    """Make all pixels zero."""
    msg.data = array('B', bytes(len(msg.data)))


def frozen(msg: Image) -> None:
    """Make all images the same."""
    msg.data = array('B', bytes([GREY]) * len(msg.data))


def larger(msg: Image) -> None:
    """Make the image twice as high and wide."""
    msg.height, msg.width, msg.step = 2 * msg.height, 2 * msg.width, 6 * msg.width
    msg.data = array('B', bytes([GREY]) * (msg.height * msg.step))


def an_hour_ago(msg: Any) -> None:
    """Let the stamp be that of a clock that is behind."""
    msg.header.stamp = Time(sec=msg.header.stamp.sec - 3600)


def in_an_hour(msg: Any) -> None:
    """Let the stamp be that of a clock that is ahead."""
    msg.header.stamp = Time(sec=msg.header.stamp.sec + 3600)


def without_a_joint(msg: JointState) -> None:
    """Give the last joint another name."""
    msg.name[-1] = 'elbow'


@dataclass(frozen=True)
class Rule:
    """Under which a node runs: parameters, `{camera}` standing for the camera that is bent."""

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)


DROP = Rule('drop', {'cameras.{camera}.frozen_timeout': 0.2})
HALT = Rule('halt', {'cameras.{camera}.on_stale': 'halt', 'state.on_stale': 'halt'})
HOLD = Rule('hold', {'cameras.{camera}.on_stale': 'hold', 'cameras.{camera}.hold_ticks': 100_000})
PROCESS = Rule('engine_process', {'engine_process': True})


@dataclass(frozen=True)
class Case:
    """One fault. It is one of a stream, of the engine, or a signal to the engine's process."""

    name: str
    rule: Rule
    image: Callable[[Any], None] | None = None
    state: Callable[[Any], None] | None = None
    silent: bool = False
    """Whether the camera sends nothing."""
    engine: str = ''
    number: signal.Signals | None = None


CASES = (
    Case('black image', DROP, image=black),
    Case('image of another size', DROP, image=larger),
    Case('same pixels, new stamps', DROP, image=frozen),
    Case('camera\'s clock an hour behind', DROP, image=an_hour_ago),
    Case('camera\'s clock an hour ahead', DROP, image=in_an_hour),
    Case('camera silent', DROP, silent=True),
    Case('joint missing from the state', DROP, state=without_a_joint),
    Case('engine raises', DROP, engine=RAISES),
    Case('engine returns NaN', DROP, engine=NOT_FINITE),
    Case('engine hangs', DROP, engine=HANGS),
    Case('black image', HALT, image=black),
    Case('camera\'s clock an hour behind', HALT, image=an_hour_ago),
    Case('joint missing from the state', HALT, state=without_a_joint),
    Case('camera silent', HOLD, silent=True),
    Case('engine\'s process is killed', PROCESS, number=signal.SIGKILL),
    Case('engine\'s process is stopped', PROCESS, number=signal.SIGSTOP),
)
