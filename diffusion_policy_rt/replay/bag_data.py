"""Bags as a data set: which they are, what of them is read, and how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from diffusion_policy_rt.errors import DataError
from diffusion_policy_rt.replay.action_parts import Part, split
from diffusion_policy_rt.replay.bag_rows import Readers, RowMaker, stack
from diffusion_policy_rt.replay.mapping import Inputs, Sources, map_topics
from diffusion_policy_rt.replay.recording import Recording
from diffusion_policy_rt.ros.bag import Bag
from diffusion_policy_rt.ros.convert import TO_FRAME, joint_state_to_values
from diffusion_policy_rt.spec import CameraSpec

KINDS = ('.mcap', '.db3', '.bag')
"""Ends of the names of files that are bags."""


@dataclass(frozen=True)
class Wanted:
    """What is asked of a bag."""

    cameras: tuple[CameraSpec, ...]
    state: tuple[str, ...]
    action: tuple[str, ...]
    """Names; none where no actions are needed."""
    rate: float
    """Rows per second [Hz]."""
    topics: Mapping[str, Sequence[str]]
    """`camera.NAME`, `state`, `action` -> topics that it may be on, in order of preference."""


def is_bag(path: Path) -> bool:
    """Whether a path looks like a bag: a folder or a file of ROS 2 or ROS 1."""
    if path.is_dir():
        return (path / 'metadata.yaml').is_file() or any(
            file.suffix in KINDS for file in path.iterdir())
    return path.suffix in KINDS and path.is_file()


def read_bag_rows(path: Path, wanted: Wanted) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return a bag's streams (cameras by name, `state`, `action`; [N, ...]) and episode ends.

    Raises DataError for a bag that does not fit, or in which no row is complete.
    """
    with Bag(path) as bag:
        present = {topic.name for topic in bag.topics}
        told = {name: topic for name, keys in wanted.topics.items()
                if (topic := next((key for key in keys if key in present), ''))}
        inputs = Inputs(tuple(c.name for c in wanted.cameras), wanted.state,
                        (0.0,) * len(wanted.state))
        sources = map_topics(inputs, bag.topics, told)
        if wanted.action and not sources.action:
            raise DataError(f'{path} has no topic of actions that is found by itself; name it '
                            'among the keys of `action` in the recipe, such as /arm/command')
        parts = split(bag, sources, wanted.action) if wanted.action else {}
        maker = RowMaker(_readers(wanted, sources, parts), wanted.rate)
        episodes = maker.make(_arrivals(bag, sources, wanted, parts))
    if bag.damage:
        tqdm.write(f'{bag.damage}; read to its last good message')
    if not episodes:
        most = max(maker.lacking, key=lambda what: maker.lacking[what], default='images')
        raise DataError(f'{path} holds no complete row at {wanted.rate:g} Hz; most lack {most}')
    return stack(episodes)


def _arrivals(bag: Bag, sources: Sources, wanted: Wanted, parts: Mapping[str, Part]) -> Any:
    recording = Recording(bag, sources, 0.5 / wanted.rate)
    total = sum(topic.messages for topic in bag.topics if topic.name in sources.topics)
    with tqdm(total=total or None, unit='message', desc=bag.path.name) as bar:
        for arrival in recording.arrivals(bar.update):
            part = parts.get(arrival.stream)
            if part is not None and recording.is_hold(
                    arrival.at_ns, part.read(arrival.data), part.columns):
                continue
            yield arrival


def _readers(wanted: Wanted, sources: Sources, parts: dict[str, Part]) -> Readers:
    def image(camera: CameraSpec, transport: str, msg: Any, at_ns: int) -> np.ndarray:
        return TO_FRAME[transport](camera, msg, at_ns).decode()

    return Readers({c: partial(image, c, sources.cameras[c.name][1]) for c in wanted.cameras},
                   lambda msg, at_ns: joint_state_to_values(wanted.state, msg), parts)
