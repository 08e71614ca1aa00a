"""Bags as a data set: which they are, what of them is read, and how."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from diffusion_policy_rt.errors import DataError, DprtError
from diffusion_policy_rt.replay.action_parts import Part, split
from diffusion_policy_rt.replay.bag_rows import Readers, Row, RowMaker
from diffusion_policy_rt.replay.events import ACTION
from diffusion_policy_rt.replay.mapping import Inputs, Sources, map_topics
from diffusion_policy_rt.replay.recording import Recording
from diffusion_policy_rt.replay.streams import STATE
from diffusion_policy_rt.ros.bag import Bag
from diffusion_policy_rt.ros.convert import TO_FRAME, joint_state_to_values
from diffusion_policy_rt.runtime.frame import fit
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


class BagRows:
    """The rows of a bag: their states and actions, and their images as often as asked for.

    All images are decoded once to know which rows are whole, and again when they are asked for.
    """

    streams: dict[str, np.ndarray]
    """`state` and `action`, float32 [N, D]."""
    ends: np.ndarray
    """Exclusive end row of each episode, int64 [E]."""

    def __init__(self, path: Path, wanted: Wanted) -> None:
        """Read the bag; DataError where it does not fit, or no row in it is complete."""
        self._path, self._wanted = path, wanted
        self._found = {camera.name: Found() for camera in wanted.cameras}
        rows: list[tuple[int, Row]] = []
        for row in self._rows({}, shown=True):
            rows.append(row)
            for found in self._found.values():
                found.rows.append(found.asked)
        self.streams = {STATE: np.stack([row.state for _, row in rows]).astype(np.float32),
                        ACTION: np.stack([row.action for _, row in rows]).astype(np.float32)}
        self.ends = np.cumsum(np.bincount([number for number, _ in rows]), dtype=np.int64)

    def images(self, camera: str, rows: np.ndarray) -> Iterator[np.ndarray]:
        """Yield a camera's images of these rows, int64 [n], which ascend; uint8 [h, w, 3]."""
        wanted, found = set(rows.tolist()), self._found[camera]
        made = self._rows({camera: {found.rows[row] for row in wanted}}, shown=False)
        for number, (_, row) in enumerate(made if wanted else ()):
            if number in wanted:
                yield row.images[camera]
            if number == rows[-1]:
                return

    def _rows(self, chosen: Mapping[str, set[int]], shown: bool) -> Iterator[tuple[int, Row]]:
        """Yield all rows; `chosen` are the images to decode, by number, none: to look at all."""
        with Bag(self._path) as bag:
            sources = self._sources(bag)
            for name, found in self._found.items():
                found.begin(chosen.get(name, set()) if chosen else None)
            parts = split(bag, sources, self._wanted.action) if self._wanted.action else {}
            maker = RowMaker(_readers(self._wanted, sources, self._found, parts),
                             self._wanted.rate)
            number = -1
            for number, row in maker.rows(_arrivals(bag, sources, self._wanted, parts, shown)):
                yield number, row
        if shown and bag.damage:
            tqdm.write(f'{bag.damage}; read to its last good message')
        if number < 0:
            most = max(maker.lacking, key=lambda what: maker.lacking[what], default='images')
            raise DataError(f'{self._path} holds no complete row at {self._wanted.rate:g} Hz; '
                            f'most lack {most}')

    def _sources(self, bag: Bag) -> Sources:
        present, wanted = {topic.name for topic in bag.topics}, self._wanted
        told = {name: topic for name, keys in wanted.topics.items()
                if (topic := next((key for key in keys if key in present), ''))}
        inputs = Inputs(tuple(c.name for c in wanted.cameras), wanted.state,
                        (0.0,) * len(wanted.state))
        sources = map_topics(inputs, bag.topics, told)
        if wanted.action and not sources.action:
            raise DataError(f'{self._path} has no topic of actions that is found by itself; name '
                            'it among the keys of `action` in the recipe, such as /arm/command')
        return sources


class Found:
    """What was found of one camera's images, numbered as they are asked for in every reading."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        """The number of each row's image."""
        self._bad: dict[int, DprtError] = {}
        self.begin(None)

    def begin(self, chosen: set[int] | None) -> None:
        """Begin a reading in which only the chosen images are decoded; None: all are tried."""
        self.asked, self._chosen = -1, chosen

    def read(self, decode: Callable[[], np.ndarray]) -> np.ndarray:
        """Return the next image, an empty one unless it was chosen; DprtError if it is damaged."""
        self.asked += 1
        if self._chosen is None:
            try:
                decode()
            except DprtError as error:
                self._bad[self.asked] = error
        if self.asked in self._bad:
            raise self._bad[self.asked]
        return decode() if self._chosen and self.asked in self._chosen else np.zeros(0, np.uint8)


def _arrivals(bag: Bag, sources: Sources, wanted: Wanted, parts: Mapping[str, Part],
              shown: bool) -> Any:
    recording = Recording(bag, sources, 0.5 / wanted.rate)
    total = sum(topic.messages for topic in bag.topics if topic.name in sources.topics)
    with tqdm(total=total or None, unit='message', desc=bag.path.name, disable=not shown) as bar:
        for arrival in recording.arrivals(bar.update):
            part = parts.get(arrival.stream)
            if part is not None and recording.is_hold(
                    arrival.at_ns, part.read(arrival.data), part.columns):
                continue
            yield arrival


def _readers(wanted: Wanted, sources: Sources, found: Mapping[str, Found],
             parts: dict[str, Part]) -> Readers:
    def image(camera: CameraSpec, transport: str, msg: Any, at_ns: int) -> np.ndarray:
        return found[camera.name].read(
            lambda: fit(TO_FRAME[transport](camera, msg, at_ns).decode(), camera))

    return Readers({c: partial(image, c, sources.cameras[c.name][1]) for c in wanted.cameras},
                   lambda msg, at_ns: joint_state_to_values(wanted.state, msg), parts)
