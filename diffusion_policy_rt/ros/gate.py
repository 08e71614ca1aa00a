"""The one place where an action leaves: on ~/action, or on ~/shadow_action in a dry run.

A gripper that is apart has ~/gripper_action and ~/shadow_gripper_action beside them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile, ReliabilityPolicy

from diffusion_policy_rt.ros.outputs import check_finite
from diffusion_policy_rt.ros.routes import Route
from diffusion_policy_rt.runtime.loop import Action
from diffusion_policy_rt.runtime.trace import Rung

COMMAND = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
ACK_S = 0.3
"""How long a last hold may take to be acknowledged [s]."""
REST_S = 0.5
"""How long a way to rest may take that is told action by action; then its end is told [s]."""


class Gate:
    """Publishes actions, each by its routes; closed, it publishes for show only."""

    def __init__(self, node: Node, routes: Sequence[Route], enabled: bool) -> None:
        self._node, self._routes, self._enabled = node, routes, enabled
        self._stamped = any(route.output.stamped for route in routes)
        self._action, self._shadow = (
            [node.create_publisher(route.output.message, f'~/{prefix}{route.name}', COMMAND)
             for route in routes] for prefix in ('', 'shadow_'))
        # one message at a time; and once `enable` has returned, nothing leaves by the other way
        self._lock = threading.RLock()

    def rival(self) -> str:
        """Return why this node may not drive: another one does; '' where none is known."""
        return next(filter(None, (self._rival(publisher.topic_name, route.name)
                                  for publisher, route in zip(self._action, self._routes))), '')

    def _rival(self, topic: str, name: str) -> str:
        names = [f'{info.node_namespace.rstrip("/")}/{info.node_name}'
                 for info in self._node.get_publishers_info_by_topic(topic)]
        if len(names) < 2:  # its own alone
            return ''
        others = [name for name in names if name != self._node.get_fully_qualified_name()
                  and 'UNKNOWN' not in name]  # so called until it is fully discovered
        return (f'{others[0] if others else "another node"} publishes on {topic} too; shut it '
                f'down, or remap ~/{name}')

    def publish(self, action: Action) -> None:
        """Publish an action, never with STOP; SpecError when its values do not fit a message."""
        with self._lock:
            publishers = self._action if self._enabled else self._shadow
            for publisher, message in zip(publishers, self._messages(action.actions)):
                publisher.publish(message)

    def _messages(self, actions: np.ndarray) -> list[Any]:
        check_finite(actions)
        stamp = self._node.get_clock().now().to_msg() if self._stamped else None
        # all are made before the first is sent: an arm does not move without its gripper
        return [route.output.to_message(actions[:, route.part], stamp)
                for route in self._routes]

    def hold(self, action: Action, step_s: float) -> None:
        """Publish a hold, where one is known; return when its end is told.

        What a message holds one action of alone is told the way to rest action by action.
        """
        if action.rung == Rung.HOLD:
            publishers = self._action if self._enabled else self._shadow
            self.publish(action)
            self._rest(publishers, action.actions, step_s)

    def _rest(self, publishers: Sequence[Publisher], actions: np.ndarray, step_s: float) -> None:
        """Publish the actions but the first on the routes that do not tell all at once."""
        single = [k for k, route in enumerate(self._routes) if not route.output.whole]
        most = max(1, int(REST_S / step_s))
        for row in (*range(1, min(most, len(actions) - 1)), -1) if (
                single and len(actions) > 1) else ():
            time.sleep(step_s)
            with self._lock:
                messages = self._messages(actions[[row]])
                for k in single:
                    publishers[k].publish(messages[k])

    def enable(self, enabled: bool, hold: Callable[[], Action], step_s: float) -> None:
        """Open or close the way to the robot; when it closes, a hold is the last to pass."""
        with self._lock:
            last = hold() if self._enabled and not enabled else None
            if last is not None and last.rung == Rung.HOLD:
                self.publish(last)
            self._enabled = enabled
        if last is not None and last.rung == Rung.HOLD:
            self._rest(self._action, last.actions, step_s)

    def destroy(self) -> None:
        """Wait until what was published is received, and give the publishers back."""
        for publisher in self._action:
            publisher.wait_for_all_acked(Duration(seconds=ACK_S))
        for publisher in (*self._action, *self._shadow):
            self._node.destroy_publisher(publisher)
