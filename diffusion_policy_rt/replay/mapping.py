"""Which topic of a bag is which input of a policy: as the node names it, as told, or the only one.

A mapping that was told reads `camera.front=/topic`, `state=/topic`, `action=/topic`,
`gripper_action=/topic`, `reset=/topic`, `events=/topic`; an empty topic takes none, and
`state=const:1,2` stands for a state that never changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from diffusion_policy_rt.errors import DataError
from diffusion_policy_rt.ros.bag import Topic
from diffusion_policy_rt.replay.recorded import READERS
from diffusion_policy_rt.spec import PolicySpec

IMAGES = {'sensor_msgs/msg/Image': 'raw', 'sensor_msgs/msg/CompressedImage': 'compressed'}
"""Message type -> transport."""
JOINTS, STRING = 'sensor_msgs/msg/JointState', 'std_msgs/msg/String'
CONSTANT = 'const:'


@dataclass(frozen=True)
class Inputs:
    """What a policy, or a recipe for one, takes."""

    cameras: tuple[str, ...]
    state: tuple[str, ...]
    example: tuple[float, ...]
    """A state."""

    @classmethod
    def of(cls, spec: PolicySpec) -> Inputs:
        """Return the inputs of a policy."""
        return cls(tuple(c.name for c in spec.cameras), tuple(spec.state.names),
                   tuple(spec.state.example().tolist()))


@dataclass(frozen=True)
class Sources:
    """Where a policy's inputs come from."""

    cameras: Mapping[str, tuple[str, str]]
    """Camera -> topic and transport."""
    state: str
    """Topic, or '' for a constant state."""
    constant: tuple[float, ...] = ()
    action: str = ''
    """Topic of the recorded actions; '' where there are none."""
    gripper: str = ''
    """Topic of those of a gripper that is apart; '' where there are none."""
    reset: str = ''
    """Topic each message of which makes the policy forget, as `~/reset` does."""
    events: str = ''
    """Topic of a recorded `~/events`, which tells where the node began, ended and was reset."""
    info: str = ''
    """Topic of a recorded `~/policy_info`, which tells whose events these are."""
    timing: str = ''
    """Topic of a recorded `~/timing`, whose first message tells when the node began to tick, where
    no event does."""
    types: Mapping[str, str] = field(default_factory=dict)
    """Topic -> message type."""

    @property
    def topics(self) -> tuple[str, ...]:
        """All topics whose messages are played."""
        named = [*(topic for topic, _ in self.cameras.values()), self.state, self.action,
                 self.gripper, self.events, self.reset]
        return tuple(dict.fromkeys(name for name in named if name))


def parse(words: Iterable[str]) -> dict[str, str]:
    """Return NAME=TOPIC words as a mapping; DataError for a word of another form."""
    told = {}
    for word in words:
        name, sign, topic = word.partition('=')
        if not sign or not name:
            raise DataError(f'--map {word!r}: write NAME=TOPIC, such as camera.front=/cam/image '
                            'or state=/joint_states')
        told[name] = topic
    return told


def map_topics(wanted: Inputs, topics: Sequence[Topic], told: Mapping[str, str]) -> Sources:
    """Return the mapping; DataError names an input without a topic, and what there is."""
    known = {'state', 'action', 'gripper_action', 'reset', 'events', 'timing',
             *(f'camera.{name}' for name in wanted.cameras)}
    unknown = sorted(set(told) - known)
    if unknown:
        raise DataError(f'--map {unknown[0]}: this policy has {", ".join(sorted(known))}')
    types = {topic.name: topic.msgtype for topic in topics}
    for name, topic in told.items():
        if topic and not topic.startswith(CONSTANT) and topic not in types:
            raise DataError(f'--map {name}={topic}: the bag has no such topic; {listing(topics)}')
    cameras = {name: _camera(name, wanted, topics, told) for name in wanted.cameras}
    state, constant = _state(wanted, topics, told)
    events = told.get('events', _ending([t for t in topics if t.msgtype == STRING], '/events'))
    over = '' if events else _ending([t for t in topics if t.msgtype == STRING], '/episode')
    return Sources(cameras, state, constant, _action('action', topics, told),
                   _action('gripper_action', topics, told), told.get('reset', over), events,
                   _ending(topics, '/policy_info'),
                   told.get('timing', _ending(topics, '/timing')), types)


def listing(topics: Sequence[Topic]) -> str:
    """Return the topics of a bag in one line."""
    return 'it has ' + (', '.join(f'{t.name} ({t.msgtype})' for t in topics) or 'none')


def _camera(name: str, wanted: Inputs, topics: Sequence[Topic],
            told: Mapping[str, str]) -> tuple[str, str]:
    images = [t for t in topics if t.msgtype in IMAGES]
    chosen = told.get(f'camera.{name}', '')
    if chosen:
        kind = next(t.msgtype for t in topics if t.name == chosen)
        if kind not in IMAGES:
            raise DataError(f'camera {name}: {chosen} is of type {kind}; images are of '
                            f'{" or ".join(IMAGES)}')
        return chosen, IMAGES[kind]
    usual = f'camera/{name}/image_raw'
    found = ([t for t in images if t.name.endswith((usual, f'{usual}/compressed'))]
             or [t for t in images if name in t.name.split('/')]
             or (images if len(wanted.cameras) == 1 else []))
    best = [t for t in found if IMAGES[t.msgtype] == 'raw'] or found
    if len(best) != 1:
        raise DataError(f'camera {name}: the bag has {len(best)} topics of images that could be '
                        f'it; name one by --map camera.{name}=TOPIC; {listing(images or topics)}')
    return best[0].name, IMAGES[best[0].msgtype]


def _state(wanted: Inputs, topics: Sequence[Topic],
           told: Mapping[str, str]) -> tuple[str, tuple[float, ...]]:
    chosen = told.get('state', '')
    if chosen.startswith(CONSTANT):
        return '', _constant(wanted, chosen)
    joints = [t for t in topics if t.msgtype == JOINTS]
    if chosen:
        if chosen not in [t.name for t in joints]:
            kind = next(t.msgtype for t in topics if t.name == chosen)
            raise DataError(f'state: {chosen} is of type {kind}; states are of {JOINTS}')
        return chosen, ()
    found = [t for t in joints if t.name.endswith('joint_states')]
    best = found if len(found) == 1 else joints
    if len(best) != 1:
        example = ','.join(f'{v:g}' for v in wanted.example)
        raise DataError(f'state: the bag has {len(best)} topics of {JOINTS}; name one by --map '
                        f'state=TOPIC, or a state that never changes by --map state=const:'
                        f'{example}; {listing(joints or topics)}')
    return best[0].name, ()


def _constant(wanted: Inputs, text: str) -> tuple[float, ...]:
    try:
        values = tuple(float(v) for v in text.removeprefix(CONSTANT).split(','))
    except ValueError:
        values = ()
    if len(values) != len(wanted.state):
        raise DataError(f'--map state={text}: write {len(wanted.state)} numbers '
                        f'({", ".join(wanted.state)})')
    return values


def _action(name: str, topics: Sequence[Topic], told: Mapping[str, str]) -> str:
    if name in told:
        kind = next((t.msgtype for t in topics if t.name == told[name]), '')
        if told[name] and kind not in READERS:
            raise DataError(f'{name}: {told[name]} is of type {kind}; actions are of '
                            f'{", ".join(READERS)}')
        return told[name]
    usable = [t for t in topics if t.msgtype in READERS]
    return _ending(usable, f'/{name}') or _ending(usable, f'/shadow_{name}')


def _ending(topics: Sequence[Topic], end: str) -> str:
    found = [t.name for t in topics if t.name.endswith(end)]
    return found[0] if len(found) == 1 else ''
