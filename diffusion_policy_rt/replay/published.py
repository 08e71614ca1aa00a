"""The bag (mcap) of what a policy would have published, beside the original in any viewer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import TracebackType

import numpy as np

from diffusion_policy_rt.errors import DprtError
from diffusion_policy_rt.ros.bag import BagWriter, qos, to_cdr
from diffusion_policy_rt.ros.events import Event
from diffusion_policy_rt.runtime.trace import Tick
from diffusion_policy_rt.spec import PolicySpec

try:
    from builtin_interfaces.msg import Time
    from std_msgs.msg import Float64MultiArray, String

    from diffusion_policy_rt.ros.outputs import make_output
    from diffusion_policy_rt.ros.recorder import Topic
    from diffusion_policy_rt.ros.timing import tick_to_message
except ImportError as error:
    raise DprtError('writing messages needs ROS 2: source an installation, pip install '
                    '"diffusion_policy_rt[ros]", or give --no-bag') from error


class PublishedBag:
    """Writes each tick's action and timing, made into messages by the node's own code."""

    def __init__(self, folder: Path, spec: PolicySpec, action_type: str, digest: str) -> None:
        self._output = make_output(action_type, spec.action.names, spec.action.names, spec.rate)
        self._folder, self._bag = folder, BagWriter(folder)
        self._topics = {
            'action': Topic('/policy/action', self._output.message),
            'timing': Topic('/policy/timing', Float64MultiArray),
            'events': Topic('/policy/events', String),
            'info': Topic('/policy/policy_info', String, latched=True)}
        self._info = String(data=json.dumps({'name': spec.name, 'digest': digest}))
        self._told = False

    def __enter__(self) -> PublishedBag:
        self._bag.__enter__()
        for topic in self._topics.values():
            self._bag.add_topic(topic.name, topic.type_name, qos(topic.reliable, topic.latched))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._bag.__exit__(kind, error, trace)
        if kind is not None:  # part of a replay is none
            shutil.rmtree(self._folder, ignore_errors=True)

    def write(self, due_ns: int, now_ns: int, actions: np.ndarray, tick: Tick) -> None:
        """Write a tick that published actions [K, A] at `now_ns`; K = 0 for none."""
        if not self._told:
            self._told = True
            self._put('info', now_ns, self._info)
        if len(actions):
            stamp = Time(sec=now_ns // 10**9, nanosec=now_ns % 10**9)
            self._put('action', now_ns, self._output.to_message(actions, stamp))
        self._put('timing', now_ns, tick_to_message(tick))

    def event(self, now_ns: int, event: Event) -> None:
        """Write what the node would have told: of each plan, the stamps of the inputs it saw."""
        self._put('events', now_ns, String(data=event.to_json()))

    def _put(self, name: str, now_ns: int, message: object) -> None:
        """Write a message, or what it is serialized to."""
        topic = self._topics[name]
        self._bag.write(topic.name, now_ns, message if isinstance(message, bytes) else to_cdr(
            message, topic.type_name))
