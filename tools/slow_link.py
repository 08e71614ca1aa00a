"""A slow network link without the kernel's help: two TAP devices, each in a namespace of its own.

Frames are delayed, jittered and lost in this process. For kernels that lack `tc ... netem`.
"""

from __future__ import annotations

import fcntl
import heapq
import os
import random
import select
import struct
import subprocess
import threading
import time
from dataclasses import dataclass, field

TUNSETIFF, TAP, NO_INFO = 0x400454CA, 0x0002, 0x1000


@dataclass(frozen=True)
class Link:
    """What becomes of each frame; durations in seconds."""

    delay: float = 0.0
    jitter: float = 0.0
    """Uniform, to either side of the delay."""
    loss: float = 0.0
    """Share of the frames."""


def run(*words: str) -> None:
    """Run a command, which must succeed."""
    subprocess.run(words, check=True)


def tap(name: str, space: str, address: str) -> int:
    """Make a TAP device in a namespace of its own; return its file descriptor."""
    run('ip', 'netns', 'add', space)
    device = os.open('/dev/net/tun', os.O_RDWR)
    fcntl.ioctl(device, TUNSETIFF, struct.pack('16sH', name.encode(), TAP | NO_INFO))
    run('ip', 'link', 'set', name, 'netns', space)
    for words in (f'ip addr add {address}/24 dev {name}', f'ip link set {name} up multicast on',
                  'ip link set lo up', f'ip route add 224.0.0.0/4 dev {name}'):
        run('ip', 'netns', 'exec', space, *words.split())
    return device


@dataclass
class Relay:
    """Carries frames between two devices from `start` to `stop`."""

    devices: tuple[int, int]
    link: Link
    carried: list[int] = field(default_factory=lambda: [0, 0])
    """Bytes that came from each device."""
    _ended: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        """Begin, in a thread."""
        self._thread = threading.Thread(target=self._carry, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End, with what is under way lost."""
        self._ended.set()
        self._thread.join()

    def _carry(self) -> None:
        under_way: list[tuple[float, int, int, bytes]] = []
        count, rng = 0, random.Random(0)
        while not self._ended.is_set():
            wait = min(0.05, max(0.0, under_way[0][0] - time.monotonic())) if under_way else 0.05
            for device in select.select(self.devices, [], [], wait)[0]:
                frame, side = os.read(device, 65536), self.devices.index(device)
                self.carried[side] += len(frame)
                if rng.random() >= self.link.loss:
                    late = self.link.delay + self.link.jitter * rng.uniform(-1, 1)
                    count += 1
                    heapq.heappush(under_way, (time.monotonic() + max(0.0, late), count,
                                               1 - side, frame))
            while under_way and under_way[0][0] <= time.monotonic():
                _, _, side, frame = heapq.heappop(under_way)
                os.write(self.devices[side], frame)
