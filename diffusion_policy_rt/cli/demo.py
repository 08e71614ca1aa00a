"""`dprt demo`: the shipped policy drives the simulated robot through ROS topics."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

from diffusion_policy_rt.cli.common import add_policy, positive, provenance, write_json
from diffusion_policy_rt.errors import DprtError

HELP = 'Run robot and policy as two ROS 2 nodes in real time, and write a report.'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_policy(parser, 100_000)
    parser.add_argument('--seconds', type=positive, default=60, metavar='S',
                        help='how long to drive (default 60)')
    parser.add_argument('--rate', type=float, default=10.0, metavar='HZ',
                        help='control rate (default 10)')
    parser.add_argument('--deadline', type=float, default=0.05, metavar='S',
                        help='deadline of each tick (default 0.05)')
    parser.add_argument('--out', metavar='DIR', help='report folder (default runs/demo-TIME)')


def run(args: argparse.Namespace) -> None:
    """Drive, then write the report."""
    use_own_domain()
    try:
        import rclpy  # noqa: F401
    except ImportError as error:
        raise DprtError('the demo needs ROS 2: source an installation, or pip install '
                        '"diffusion_policy_rt[ros]"') from error
    from diffusion_policy_rt.replay.report import write_report
    from diffusion_policy_rt.ros.demo import Demo

    out = Path(args.out or f'runs/demo-{time.strftime("%Y%m%d-%H%M%S")}').resolve()
    if out.exists() and any(out.iterdir()):
        raise DprtError(f'{out} is not empty; choose another --out')
    out.mkdir(parents=True, exist_ok=True)
    Demo(out, args.policy, args.engine, args.threads, args.steps, args.seed, args.rate,
         args.deadline).drive(args.seconds)
    result = {**write_report(out, args.rate, args.deadline), 'provenance': provenance()}
    print(summary(result))
    write_json(args.json, result)


def use_own_domain() -> None:
    """Keep the demo's topics on this machine and, unless a domain is chosen, to itself."""
    os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    os.environ.setdefault('ROS_DOMAIN_ID', str(1 + os.getpid() % 100))


def summary(result: dict) -> str:
    """Return what a person wants to know, in three lines."""
    latency = result['stamp_to_publish_s']
    times = 'no fresh plan' if latency['p50'] is None else (
        f'stamp to publish p50 {1e3 * latency["p50"]:.1f} ms, p99 {1e3 * latency["p99"]:.1f} ms')
    scores = ', '.join(f'{e["max_coverage"]:.2f}' for e in result['episodes'])
    rungs = ', '.join(f'{name} {count}' for name, count in result['rungs'].items() if count)
    return (f'{result["ticks"]} ticks at {result["rate_hz"]:g} Hz, {result["missed"]} missed the '
            f'{1e3 * result["deadline_s"]:g} ms deadline; {times}\n'
            f'rungs: {rungs}\nepisode scores: {scores}; report: {result["report"]}')
