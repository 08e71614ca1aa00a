"""What a tick that publishes from its chunk costs, beside another checkout, call by call in turns.

    python tools/tick_cost.py --beside CHECKOUT [--policy arm --velocity 1.1] [--cold 16]

Told is the processor time of the calling thread. The actions of both must have the same bits.
"""

from __future__ import annotations

import argparse
import gc
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import rclpy

from diffusion_policy_rt.engines.bundle import read_bundle
from diffusion_policy_rt.spec import PolicySpec

OURS, BESIDE = 'diffusion_policy_rt', 'beside_rt'
START, PERIOD, RATE = 10**18, 20_000_000, 50.0
CHUNK_TICKS = 40
"""Ticks for which a chunk is followed."""
READER = ('import rclpy, sys\n'
          'from trajectory_msgs.msg import JointTrajectory\n'
          'rclpy.init()\n'
          'node = rclpy.create_node("reader")\n'
          'for topic in sys.argv[1:]:\n'
          '    node.create_subscription(JointTrajectory, topic, lambda msg: None, 1)\n'
          'print("reads", flush=True)\n'
          'rclpy.spin(node)')


class Side:
    """The loop and the gate of one checkout, without an engine."""

    def __init__(self, package: str, spec: PolicySpec, *bounds: float) -> None:
        self._module = lambda name: import_module(f'{package}.{name}')
        action, size = spec.action, len(spec.action)
        limits = self._module('runtime.limits').Limits(
            np.array(action.low), np.array(action.high), *(np.full(size, b) for b in bounds))
        settings = self._module('runtime.settings').LoopSettings(control_rate=RATE, deadline=0.01)
        clock = self._module('runtime.clock').ManualClock()
        self.loop = self._module('runtime.loop').PolicyLoop(spec, None, settings, clock,
                                                            limits=limits)
        output = self._module('ros.outputs').make_output('joint_trajectory', action.names,
                                                         action.names, spec.rate)
        route = self._module('ros.routes').Route('action', list(range(size)), output)
        self.gate = self._module('ros.gate').Gate(rclpy.create_node(package), [route], True)

    def adopt(self, actions: np.ndarray, now: int, spec: PolicySpec) -> None:
        """Follow a chunk that was planned at `now`."""
        chunk = self._module('runtime.chunk').Chunk(now - spec.step_ns, spec.step_ns, actions, now,
                                                    1)
        self.loop.adopt(self._module('runtime.plan').Plan(chunk, 0, 0, 0, 0, 0, 0))


def chunk_at(spec: PolicySpec, tick: int) -> np.ndarray:
    """Return actions [H, A] that wander through the middle of their bounds."""
    low, high = np.array(spec.action.low), np.array(spec.action.high)
    phase = tick / 500 + np.arange(spec.horizon)[:, None] / 100 + np.arange(len(low))
    return (low + high) / 2 + (high - low) / 4 * np.sin(phase)


def timed(cold: np.ndarray, call: Callable[..., Any], *given: Any) -> tuple[float, Any]:
    """Return the processor time [us] of a call and what it returned, after `cold` was written."""
    cold += 1
    began = time.thread_time_ns()
    made = call(*given)
    return (time.thread_time_ns() - began) / 1e3, made


def measure(sides: list[Side], spec: PolicySpec, ticks: int, cold: np.ndarray) -> np.ndarray:
    """Return the durations [ticks, sides, (act, publish)] [us]."""
    spent = np.zeros((ticks, len(sides), 2))
    begins = dict(zip(spec.action.names, chunk_at(spec, 0)[0]))
    measured = {name: begins.get(name, 0.0) for name in spec.state.names}
    for tick in range(ticks):
        now, bits = START + tick * PERIOD, set()
        for k in np.roll(range(len(sides)), tick):  # neither is always the first
            side = sides[k]
            if tick % CHUNK_TICKS == 0:
                side.adopt(chunk_at(spec, tick), now, spec)
            side.loop.observe_state(now, now, np.array(list(measured.values())))
            spent[tick, k, 0], action = timed(cold, side.loop.act, now)
            spent[tick, k, 1], _ = timed(cold, side.gate.publish, action)
            bits.add(action.actions.tobytes())
        assert len(bits) == 1, f'tick {tick}: other actions'
        measured |= {name: at for name, at in zip(spec.action.names, action.actions[0])
                     if name in measured}
    return spent


def tell(spent: np.ndarray) -> None:
    """Print medians and 99th percentiles, and the ratios of the medians."""
    for stage, rows in zip(('act', 'publish'), spent[CHUNK_TICKS:].transpose(2, 1, 0)):
        told = [f'{np.median(row):7.1f} (p99 {np.percentile(row, 99):7.1f})' for row in rows]
        ratio = np.median(rows[0]) / np.median(rows[-1])
        print(f'{stage:8} [us]  {"  beside ".join(told)}  ratio {ratio:.2f}')


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--beside', type=Path, required=True, help='another checkout')
    parser.add_argument('--policy', default='pusht')
    for name in ('--velocity', '--acceleration'):
        parser.add_argument(name, type=float, default=np.inf, help='limit of all actions')
    parser.add_argument('--ticks', type=int, default=2000)
    parser.add_argument('--cold', type=int, default=0, help='MiB written before each call')
    args = parser.parse_args()
    spec, cold = read_bundle(args.policy).spec, np.zeros(args.cold << 20, np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        copied = Path(folder) / BESIDE
        shutil.copytree(args.beside / OURS, copied,
                        ignore=shutil.ignore_patterns('bundles', '__pycache__'))
        for path in copied.rglob('*.py'):
            path.write_text(path.read_text().replace(OURS, BESIDE))
        sys.path.insert(0, folder)
        rclpy.init()
        sides = [Side(package, spec, args.velocity, args.acceleration)
                 for package in (OURS, BESIDE)]
    topics = [f'/{package}/action' for package in (OURS, BESIDE)]
    with subprocess.Popen([sys.executable, '-c', READER, *topics], stdout=subprocess.PIPE,
                          text=True) as reader:
        assert reader.stdout is not None and reader.stdout.readline()
        gc.disable()
        try:
            tell(measure(sides, spec, args.ticks, cold))
        finally:
            reader.kill()
    rclpy.shutdown()


if __name__ == '__main__':
    main()
