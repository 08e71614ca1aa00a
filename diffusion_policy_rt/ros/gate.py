"""The one place where an action leaves: on ~/action, or on ~/shadow_action in a dry run.

A gripper that is apart has ~/gripper_action and ~/shadow_gripper_action beside them.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy

from diffusion_policy_rt.ros.outputs import check_finite
from diffusion_policy_rt.ros.routes import Route
from diffusion_policy_rt.runtime.loop import Action
from diffusion_policy_rt.runtime.trace import Rung

COMMAND = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
ACK_S = 0.5
"""How long a last hold may take to be acknowledged [s]."""


class Gate:
    """Publishes actions, each by its routes; closed, it publishes for show only."""

    def __init__(self, node: Node, routes: Sequence[Route], enabled: bool) -> None:
        self._node, self._routes, self._enabled = node, routes, enabled
        self._action, self._shadow = (
            [node.create_publisher(route.output.message, f'~/{prefix}{route.name}', COMMAND)
             for route in routes] for prefix in ('', 'shadow_'))
        # once `enable` has returned, nothing leaves by the other way
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
        check_finite(action.actions)
        stamp = self._node.get_clock().now().to_msg()
        # all are made before the first is sent: an arm does not move without its gripper
        messages = [route.output.to_message(action.actions[:, route.columns], stamp)
                    for route in self._routes]
        with self._lock:
            for publisher, message in zip(self._action if self._enabled else self._shadow,
                                          messages):
                publisher.publish(message)

    def hold(self, action: Action) -> None:
        """Publish a hold, where one is known."""
        if action.rung == Rung.HOLD:
            self.publish(action)

    def enable(self, enabled: bool, hold: Action) -> None:
        """Open or close the way to the robot; when it closes, `hold` is the last to pass."""
        with self._lock:
            if self._enabled and not enabled:
                self.hold(hold)
            self._enabled = enabled

    def destroy(self) -> None:
        """Wait until what was published is received, and give the publishers back."""
        for publisher in self._action:
            publisher.wait_for_all_acked(Duration(seconds=ACK_S))
        for publisher in (*self._action, *self._shadow):
            self._node.destroy_publisher(publisher)
