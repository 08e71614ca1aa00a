"""The SROS2 policy names what the node has, both ways, and holds where security is on."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from ros_rig import ACTIVATE, CONFIGURE, PATIENCE_S, Spinning, overrides

from diffusion_policy_rt.ros.policy_node import PolicyNode

POLICY = Path(__file__).parents[1] / 'config' / 'sros2_policy.xml'
PEER = Path(__file__).with_name('secure_peer.py')
SLOW = {'control_rate': 2.0, 'deadline': 0.4}
"""Loose, so that a busy machine meets it."""
NODE = [sys.executable, '-m', 'diffusion_policy_rt.ros.policy_node', '--ros-args', '-p',
        'control_rate:=2.0', '-p', 'deadline:=0.4']


def named(kind, right):
    """Return the full names that the policy allows, such as the `topic`s to `publish`."""
    (profile,) = ElementTree.parse(POLICY).iter('profile')
    space = profile.get('ns').rstrip('/')
    own = f'{space}/{profile.get("node")}'
    words = [word.text for group in profile if group.get(right) == 'ALLOW'
             for word in group.iter(kind)]
    full = [own + word[1:] if word[0] == '~' else word if word[0] == '/' else f'{space}/{word}'
            for word in words]
    assert len(set(full)) == len(full)
    return set(full)


def test_the_policy_names_exactly_what_the_running_node_has(context, robot):
    spinning = Spinning(PolicyNode(context=context, parameter_overrides=overrides(SLOW)))
    node = spinning.node
    try:
        assert robot.transit(CONFIGURE) and robot.transit(ACTIVATE)
        robot.more(robot.ticks, 1)
        has = {right: {name for name, _ in ask('policy', '/')} for right, ask in {
            'publish': node.get_publisher_names_and_types_by_node,
            'subscribe': node.get_subscriber_names_and_types_by_node,
            'reply': node.get_service_names_and_types_by_node,
            'request': node.get_client_names_and_types_by_node}.items()}
    finally:
        spinning.close()
    assert has['publish'] == named('topic', 'publish')
    assert has['subscribe'] == named('topic', 'subscribe')
    assert has['reply'] == named('service', 'reply')
    assert has['request'] == named('service', 'request') == set()


def test_the_policy_is_that_of_the_node_and_denies_by_leaving_out():
    (enclave,), (profile,) = (list(ElementTree.parse(POLICY).iter(tag))
                              for tag in ('enclave', 'profile'))
    assert enclave.get('path') == profile.get('ns') + profile.get('node') == '/policy'
    assert all(set(group.attrib.values()) == {'ALLOW'} for group in profile)


# -- with security on --------------------------------------------------------------------------

@pytest.fixture(scope='module')
def secured(tmp_path_factory):
    """Return the environment of an enforced keystore that holds the policy and a free peer."""
    keystore = pytest.importorskip(
        'sros2.keystore', reason='a keystore is made by sros2, which is not installed')
    folder = tmp_path_factory.mktemp('security') / 'keystore'
    keystore.create_keystore(folder)
    keystore.create_enclave(folder, '/policy')
    keystore.create_permission(folder, '/policy', POLICY)
    keystore.create_enclave(folder, '/peer')  # may do anything
    made = {**os.environ, 'ROS_SECURITY_ENABLE': 'true', 'ROS_SECURITY_STRATEGY': 'Enforce',
            'ROS_SECURITY_KEYSTORE': str(folder)}
    probe = subprocess.run([sys.executable, '-c', 'import rclpy; rclpy.init(args=["--ros-args", '
                            '"--enclave", "/peer"]); rclpy.create_node("peer")'],
                           env=made, capture_output=True, text=True, timeout=PATIENCE_S)
    if probe.returncode:
        pytest.skip(f'no node starts with security on here: {probe.stderr.strip()[-300:]}')
    return made


def answers(environment, *words):
    """Start the node; return what the peer is answered, and what the node logged."""
    node = subprocess.Popen([*NODE, *words, '--enclave', '/policy'], env=environment, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        peer = subprocess.run([sys.executable, PEER, '--ros-args', '--enclave', '/peer'],
                              env=environment, capture_output=True, text=True,
                              timeout=2 * PATIENCE_S)
    finally:
        node.send_signal(signal.SIGINT)
        said, _ = node.communicate(timeout=PATIENCE_S)
    return peer.stdout.split(), said + peer.stderr


def test_a_secured_node_does_all_that_it_does_with_these_permissions(secured):
    done, said = answers(secured)
    assert done == ['True', 'True', 'ticks'], said


def test_a_secured_node_may_not_listen_elsewhere(secured):
    done, said = answers(secured, '-r', 'joint_states:=other_states')
    assert done == ['False'] and 'cannot configure' in said, said
