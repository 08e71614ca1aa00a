"""What the node adds to the engine's own time, over real topics between two processes."""

from __future__ import annotations

import array
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from lifecycle_msgs.msg import Transition
from rclpy.node import Node
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float64MultiArray
from tqdm import tqdm

from diffusion_policy_rt.engines.bundle import read_bundle
from diffusion_policy_rt.replay.bench import bench
from diffusion_policy_rt.ros.processes import NodeProcess, change_state
from diffusion_policy_rt.runtime.trace import Rung, Tick, read_values
from diffusion_policy_rt.spec import PolicySpec

SIZES = ((96, 96), (640, 480))
RATE = 10.0
"""Frames, states and ticks per second; every tick plans."""
SETTLE_TICKS = 10
"""First ticks that are left out."""


class Robot(Node):
    """Publishes one image per camera and the joint state at a fixed rate; collects `~/timing`."""

    def __init__(self, spec: PolicySpec, width: int, height: int) -> None:
        super().__init__('bench_robot')
        self.ticks: list[Tick] = []
        self.sent = 0
        self._spec, self._stop = spec, threading.Event()
        pixels = np.random.default_rng(0).integers(0, 256, height * width * 3, np.uint8)
        self._image = Image(height=height, width=width, encoding='rgb8', step=3 * width,
                            data=array.array('B', pixels.tobytes()))
        self._cameras = [self.create_publisher(Image, f'camera/{c.name}/image_raw', 1)
                         for c in spec.cameras]
        self._joints = self.create_publisher(JointState, 'joint_states', 1)
        self.create_subscription(Float64MultiArray, '/policy/timing', self._take, 10)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _take(self, msg: Float64MultiArray) -> None:
        self.ticks.append(read_values(msg.data))

    def _run(self) -> None:
        state = JointState(name=list(self._spec.state.names),
                           position=self._spec.state.example().astype(float).tolist())
        due = time.perf_counter()
        while not self._stop.wait(max(0.0, due - time.perf_counter())):
            stamp = self.get_clock().now().to_msg()
            state.header.stamp = self._image.header.stamp = stamp
            self._joints.publish(state)
            for camera in self._cameras:
                camera.publish(self._image)
            self.sent += 1
            due += 1 / RATE

    def close(self) -> None:
        """End the publishing."""
        self._stop.set()
        self._thread.join()
        self.destroy_node()


def bench_node(policy: str, seconds: int, engine: str, steps: int) -> list[dict[str, Any]]:
    """Return one row per image size: times from stamp to publication, and the engine's share.

    `overhead_p50_s` is the median from stamp to publication less the medians of the engine's own
    calls, which are measured afterwards on this idle machine. `inactive_s` is from the start of
    the node's process until it is configured, `node_rss_bytes` its memory at the end.
    """
    bundle = read_bundle(policy)
    measured = [_measure(str(bundle.folder.resolve()), bundle.spec, size, seconds, engine, steps)
                for size in SIZES]
    parts = bench([policy], ('denoiser', 'encoder'), None if engine == 'auto' else [engine], [1],
                  [1], 200)
    own = {row['what']: row['p50_s'] for row in parts if row['engine'] == parts[0]['engine']}
    engine_s = own['encoder'] * len(bundle.spec.cameras) + own['denoiser'] * steps
    return [{'what': 'node', 'engine': parts[0]['engine'], 'dtype': parts[0]['dtype'],
             'steps': steps, 'threads': 1, **row, 'engine_p50_s': engine_s,
             'overhead_p50_s': row['p50_s'] - engine_s,
             'bytes': parts[0]['bytes'], 'peak_rss_bytes': parts[0]['peak_rss_bytes']}
            for row in measured]


def _measure(policy: str, spec: PolicySpec, size: tuple[int, int], seconds: int, engine: str,
             steps: int) -> dict[str, Any]:
    values = {'policy': policy, 'engine': engine, 'control_rate': RATE, 'deadline': 0.5 / RATE,
              'min_steps': steps, 'max_steps': steps, 'n_action_steps': 1}
    arguments = [word for name, value in values.items() for word in ('-p', f'{name}:={value}')]
    rclpy.init()
    robot = Robot(spec, *size)
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        process = NodeProcess('policy_node', arguments, Path(folder) / 'log')
        try:
            change_state(robot, '/policy', Transition.TRANSITION_CONFIGURE, process)
            inactive = time.monotonic() - began
            change_state(robot, '/policy', Transition.TRANSITION_ACTIVATE, process)
            sent = robot.sent
            _collect(robot, seconds, f'{size[0]}x{size[1]}')
            sent, resident = robot.sent - sent, process.resident_bytes()
        finally:
            process.stop()
            robot.close()
            rclpy.try_shutdown()
    return {**_row(size, robot.ticks[SETTLE_TICKS:], sent), 'inactive_s': inactive,
            'node_rss_bytes': resident}


def _collect(robot: Robot, seconds: int, title: str) -> None:
    end = time.monotonic() + seconds
    with tqdm(total=seconds, unit='s', desc=title) as bar:
        while (left := end - time.monotonic()) > 0:
            rclpy.spin_once(robot, timeout_sec=left)
            bar.update(min(seconds, round(seconds - left)) - bar.n)


def _row(size: tuple[int, int], ticks: list[Tick], sent: int) -> dict[str, Any]:
    fresh = [tick for tick in ticks if tick.rung in (Rung.FRESH, Rung.FEWER)]
    times = np.array([tick.stamp_to_publish_s for tick in fresh] or [np.nan])
    plans = np.array([tick.plan_s for tick in fresh] or [np.nan])
    return {'image': f'{size[0]}x{size[1]}', 'frames_sent': sent, 'ticks': len(ticks),
            'fresh': len(fresh), 'missed': sum(tick.missed for tick in ticks),
            'p50_s': float(np.median(times)), 'p99_s': float(np.percentile(times, 99)),
            'plan_p50_s': float(np.median(plans))}
