"""Asks the policy node to configure and to activate, waits for a tick, and prints the answers."""

import sys

import rclpy
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from std_msgs.msg import Float64MultiArray

PATIENCE_S = 60


def change(peer, client, transition):
    """Return whether the node followed."""
    future = client.call_async(ChangeState.Request(transition=Transition(id=transition)))
    rclpy.spin_until_future_complete(peer, future, timeout_sec=PATIENCE_S)
    print(future.result().success)
    return future.result().success


def main():
    """Walk the node to active, and wait for a tick."""
    rclpy.init(args=sys.argv)
    peer, ticks = rclpy.create_node('peer'), []
    peer.create_subscription(Float64MultiArray, '/policy/timing', ticks.append, 10)
    client = peer.create_client(ChangeState, '/policy/change_state')
    assert client.wait_for_service(PATIENCE_S)
    if not all(change(peer, client, transition) for transition in (
            Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE)):
        return
    while not ticks:
        rclpy.spin_once(peer)
    print('ticks')


if __name__ == '__main__':
    main()
