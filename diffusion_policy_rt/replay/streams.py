"""What a bag's streams are like: how much came, gaps, stamps that jump back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from diffusion_policy_rt.replay.faults import Arrival

STATE = 'state'
MOMENT_NS = 2_000_000
"""How far apart messages of one stamp may be recorded and still count as sent together [ns]."""


class StreamWatch:
    """Counts the messages of each stream and notes what is odd about their times."""

    def __init__(self, gap_ns: int) -> None:
        self._gap_ns = gap_ns
        self._last: dict[str, int] = {}
        self._stamped: dict[str, int] = {}
        self.counts: dict[str, int] = {}
        """Messages of each stream."""
        self.gaps: dict[str, tuple[int, float]] = {}
        """Stream -> how often it was silent for longer than `gap_ns`, and the longest [s]."""
        self.jumps: dict[str, tuple[int, float]] = {}
        """Stream -> how often its stamps jumped back, and the farthest [s]."""

    def note(self, arrival: Arrival) -> None:
        """Take in a message of an input, in order of arrival."""
        stream, stamp = arrival.stream, stamped(arrival.data)
        self.counts[stream] = self.counts.get(stream, 0) + 1
        silent = arrival.at_ns - self._last.get(stream, arrival.at_ns)
        if silent > self._gap_ns:
            _add(self.gaps, stream, silent)
        back = self._stamped.get(stream, stamp) - stamp
        if stamp and back > 0:
            _add(self.jumps, stream, back)
        self._last[stream] = arrival.at_ns
        self._stamped[stream] = stamp or self._stamped.get(stream, 0)

    def notes(self) -> Iterator[str]:
        """Yield one line for each oddity."""
        for stream, (count, longest) in self.gaps.items():
            gaps = 'a gap' if count == 1 else f'{count} gaps'
            yield (f'{stream}: {gaps} without a message, the longest of {longest:.3g} s; '
                   'the policy went through them as it does live')
        for stream, (count, farthest) in self.jumps.items():
            times = 'once' if count == 1 else f'{count} times'
            yield (f'{stream}: stamps jumped back {times}, by up to {farthest:.3g} s; such '
                   'messages stand where their stamps are')


def _add(found: dict[str, tuple[int, float]], stream: str, ns: int) -> None:
    count, most = found.get(stream, (0, 0.0))
    found[stream] = count + 1, max(most, ns / 1e9)


def stamped(msg: Any) -> int:
    """Return a message's own stamp [ns]; 0 where it has none."""
    header = getattr(msg, 'header', None)
    if header is None:
        return 0
    stamp = header.stamp
    return int(stamp.sec * 1_000_000_000 + stamp.nanosec)


def together(arrivals: Iterable[Arrival]) -> Iterator[Arrival]:
    """Let what was sent under one stamp arrive as one, states before frames.

    The recorder and the node are two listeners: of messages sent within a moment each may take in
    another first. Those of one stamp recorded within `MOMENT_NS` count as arrived with the last.
    """
    held: list[Arrival] = []
    sent = 0
    for arrival in arrivals:
        stamp = stamped(arrival.data)
        if held and (not stamp or stamp != sent
                     or arrival.at_ns - held[0].at_ns > MOMENT_NS
                     or arrival.stream in [one.stream for one in held]):
            yield from _released(held)
            held = []
        if not held:
            sent = stamp
        held.append(arrival)
    yield from _released(held)


def _released(held: list[Arrival]) -> list[Arrival]:
    """Return what was sent together, arrived with the last of it."""
    if len(held) < 2:
        return held
    return [one._replace(at_ns=held[-1].at_ns)
            for one in sorted(held, key=lambda one: one.stream != STATE)]


def segments(arrivals: Iterable[Arrival], silence_ns: int,
             begins: Callable[[Arrival], bool] = lambda _: False) -> Iterator[Iterator[Arrival]]:
    """Split arrivals where one begins a run, or nothing at all came for longer than `silence_ns`.

    Each part must be used up before the next is asked for.
    """
    source = iter(arrivals)
    first = next(source, None)

    def part(begin: Arrival) -> Iterator[Arrival]:
        nonlocal first
        last = begin
        yield begin
        for arrival in source:
            if arrival.at_ns - last.at_ns > silence_ns or begins(arrival):
                first = arrival
                return
            last = arrival
            yield arrival
        first = None

    while first is not None:
        yield part(first)
