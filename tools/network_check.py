#!/usr/bin/env python3
"""Robots and their policies in two network namespaces, over a link with delay, jitter and loss.

    tools/network_check.py --delay 0.02 --jitter 0.01 --loss 0.01 --robots 4 --seconds 30

Each simulated robot runs in the one namespace, the policy node of each in the other. Needs root.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from slow_link import Link, Relay, run, tap

from diffusion_policy_rt.share import find

SPACES = ('dprt_robots', 'dprt_host')
NAMES = ('tick', 'rung', 'missed', 'observation_age_s', 'stamp_to_publish_s')


def node(space: str, module: str, name: str, log: Path, **values: Any) -> subprocess.Popen[bytes]:
    """Start a node in a network namespace and a ROS namespace."""
    given = [word for key, value in values.items() for word in ('-p', f'{key}:={value}')]
    environment = {**os.environ, 'ROS_AUTOMATIC_DISCOVERY_RANGE': 'SUBNET'}
    with log.open('wb') as file:
        return subprocess.Popen(
            ['ip', 'netns', 'exec', space, sys.executable, '-m', f'diffusion_policy_rt.{module}',
             '--ros-args', '--params-file', str(find('config/pusht.yaml')),
             '-r', f'__ns:=/{name}', *given], env=environment, stdout=file, stderr=file)


def listen(robots: int, seconds: float) -> dict[str, Any]:
    """In the policies' namespace: activate them, and count their ticks."""
    import rclpy
    from lifecycle_msgs.msg import Transition
    from std_msgs.msg import Float64MultiArray

    from diffusion_policy_rt.ros.processes import change_state

    class Alive:
        running = True

        def last_line(self) -> str:
            return 'see its log'

    rclpy.init()
    listener, ticks = rclpy.create_node('listener'), [[] for _ in range(robots)]  # type: ignore[var-annotated]

    def keep(message: Float64MultiArray, number: int) -> None:
        told = dict(zip((d.label for d in message.layout.dim), message.data))
        ticks[number].append([told[name] for name in NAMES])

    for number in range(robots):
        for change in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
            change_state(listener, f'/robot{number}/policy', change, Alive())  # type: ignore[arg-type]
        listener.create_subscription(Float64MultiArray, f'/robot{number}/policy/timing',
                                     lambda m, n=number: keep(m, n), 100)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        rclpy.spin_once(listener, timeout_sec=0.1)
    return {'robots': [summary(np.array(kept)) for kept in ticks]}


def summary(ticks: np.ndarray) -> dict[str, Any]:
    """Return what the ticks of one policy amount to; [N, len(NAMES)]."""
    from diffusion_policy_rt.runtime.trace import Rung

    told = dict(zip(NAMES, ticks.T))
    rungs = {rung.name.lower(): int((told['rung'] == rung).sum()) for rung in Rung}
    ages = told['observation_age_s'][np.isfinite(told['observation_age_s'])]
    return {'ticks': len(ticks), 'missed': int(told['missed'].sum()), 'rungs': rungs,
            'unaccounted': int(np.ptp(told['tick'])) + 1 - len(ticks),
            'observation_age_s': dict(zip(('p50', 'p99', 'max'), np.percentile(
                ages, (50, 99, 100)).round(4).tolist())) if len(ages) else {}}


@contextmanager
def linked(link: Link) -> Iterator[Relay]:
    """Make the two namespaces and the link; remove them at the end."""
    try:
        relay = Relay((tap('dprt0', SPACES[0], '10.99.0.1'), tap('dprt1', SPACES[1], '10.99.0.2')),
                      link)
        relay.start()
        yield relay
        relay.stop()
    finally:
        for space in SPACES:
            subprocess.run(['ip', 'netns', 'del', space], check=False)


def drive(args: argparse.Namespace) -> dict[str, Any]:
    """Run all nodes, and return what the policies' ticks and the link tell."""
    link = Link(args.delay, args.jitter, args.loss)
    with tempfile.TemporaryDirectory() as folder, linked(link) as relay:
        logs, nodes = Path(folder), []
        for space in SPACES if args.ipfrag_time else ():
            run('ip', 'netns', 'exec', space, 'sh', '-c',
                f'echo {args.ipfrag_time} > /proc/sys/net/ipv4/ipfrag_time')
        for number in range(args.robots):
            name = f'robot{number}'
            nodes += [node(SPACES[0], 'ros.pusht_node', name, logs / f'{name}.log',
                           action_topic=f'/{name}/policy/action',
                           reset_service=f'/{name}/policy/reset'),
                      node(SPACES[1], 'ros.policy_node', name, logs / f'policy{number}.log',
                           policy=args.policy, deadline=args.deadline)]
        try:
            before = list(relay.carried)
            began = time.monotonic()
            told = subprocess.run(
                ['ip', 'netns', 'exec', SPACES[1], sys.executable, __file__, *sys.argv[1:],
                 '--listen'], env={**os.environ, 'ROS_AUTOMATIC_DISCOVERY_RANGE': 'SUBNET'},
                check=True, capture_output=True, text=True).stdout
            took = time.monotonic() - began
        finally:
            for each in nodes:
                each.terminate()
            for each in nodes:
                each.wait(10)
        sent = [round((after - b) / took) for after, b in zip(relay.carried, before)]
        return {**json.loads(told.splitlines()[-1]), 'bytes_per_s': {
            'from_robots': sent[0], 'from_host': sent[1]},
            'link': {**vars(link), 'ipfrag_time_s': args.ipfrag_time or 30}}


def main() -> None:
    """Run, and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in (('delay', 0.0), ('jitter', 0.0), ('loss', 0.0), ('deadline', 0.05)):
        parser.add_argument(f'--{name}', type=float, default=value)
    parser.add_argument('--robots', type=int, default=1)
    parser.add_argument('--seconds', type=float, default=30)
    parser.add_argument('--policy', default='pusht')
    parser.add_argument('--ipfrag-time', type=int, default=0,
                        help='seconds that the namespaces keep incomplete datagrams (kernel: 30)')
    parser.add_argument('--listen', action='store_true', help=argparse.SUPPRESS)
    args = parser.parse_args()
    print(json.dumps(listen(args.robots, args.seconds) if args.listen else drive(args)))


if __name__ == '__main__':
    main()
