"""Which recorded actions are on which topic: the arm's, and the gripper's where it is apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffusion_policy_rt.errors import DataError
from diffusion_policy_rt.replay.events import ACTION, GRIPPER
from diffusion_policy_rt.replay.mapping import Sources
from diffusion_policy_rt.replay.recorded import READERS
from diffusion_policy_rt.ros.bag import Bag


@dataclass(frozen=True)
class Part:
    """What one topic tells of each action."""

    names: tuple[str, ...]
    """In the order of messages that do not name their values."""
    columns: tuple[int, ...]
    """Of the action."""
    kind: str
    """Message type."""

    def read(self, msg: Any) -> np.ndarray:
        """Return the values of these names, float64 in units; FrameError where they lack."""
        return READERS[self.kind](self.names, msg)


def split(bag: Bag, sources: Sources, names: Sequence[str],
          apart: Sequence[str] = ()) -> dict[str, Part]:
    """Return, by stream, the parts of recorded actions `names`; none where there are no actions.

    `apart` are those on the gripper's topic, in its order. Without it they are what the arm's
    messages do not name; DataError where these name nothing.
    """
    if not sources.action:
        return {}
    apart = _apart(bag, sources, names, apart)
    arm = [name for name in names if name not in apart]
    told = {ACTION: (arm, sources.action), GRIPPER: (apart, sources.gripper)}
    return {stream: Part(tuple(of), tuple(map(list(names).index, of)), sources.types[topic])
            for stream, (of, topic) in told.items() if of}


def _apart(bag: Bag, sources: Sources, names: Sequence[str], told: Sequence[str]) -> Sequence[str]:
    unknown = [name for name in told if name not in names]
    if unknown or len(set(told)) == len(names):
        raise DataError(f'--gripper {",".join(told)}: give some, not all, of the policy\'s '
                        f'actions, {", ".join(names)}')
    if told and not sources.gripper:
        raise DataError('the bag has no topic of the gripper\'s actions that is found by itself; '
                        'name it by --map gripper_action=TOPIC')
    first = next(bag.messages(sources.action), None) if sources.gripper else None
    if told or first is None:
        return list(dict.fromkeys(told))
    present = getattr(first.data, 'joint_names', getattr(first.data, 'name', None))
    if present is not None:
        lacking = [name for name in names if name not in present]
        return lacking if len(lacking) < len(names) else ()
    if len(getattr(first.data, 'data', names)) == len(names):
        return ()
    raise DataError(f'{sources.action} and {sources.gripper} do not name their values; name the '
                    'gripper\'s by --gripper NAME,..., or leave them out by --map gripper_action=')
