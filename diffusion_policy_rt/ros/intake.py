"""Messages into a loop: one way for the node's subscriptions and for a bag's. Loads no ROS."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from diffusion_policy_rt.errors import DprtError
from diffusion_policy_rt.ros.complaints import Complaints
from diffusion_policy_rt.ros.convert import TO_FRAME, joint_state_to_values, stamp_ns
from diffusion_policy_rt.runtime.loop import PolicyLoop
from diffusion_policy_rt.runtime.observation import ROBOT
from diffusion_policy_rt.spec import CameraSpec

STATE = 'joint_states'


class Intake:
    """Feeds a loop while `open` is set. What is malformed is dropped, counted and told once."""

    def __init__(self, loop: PolicyLoop, complaints: Complaints) -> None:
        self._loop, self._complaints = loop, complaints
        self.open = False
        """Whether messages reach the loop; else they are checked only."""
        self.newest: dict[str, int] = {}
        """The newest stamp that came of each stream, by the loop's names for them [ns]."""

    @property
    def dropped(self) -> dict[str, int]:
        """Messages dropped of each input since the start."""
        names = [*(source(camera.name) for camera in self._loop.spec.cameras), STATE]
        return {name: self._complaints.counts[name] for name in names}

    def frame(self, camera: CameraSpec, transport: str, msg: Any, now_ns: int) -> bool:
        """Take in an image message that arrived at `now_ns`; return whether it was sound."""
        store = partial(self._frame, camera, transport)
        return self._take(source(camera.name), store, msg, now_ns)

    def state(self, msg: Any, now_ns: int) -> bool:
        """Take in a sensor_msgs/JointState; return whether it was sound."""
        return self._take(STATE, self._state, msg, now_ns)

    def _take(self, name: str, store: Callable[[Any, int], None], msg: Any, now: int) -> bool:
        try:
            store(msg, now)
        except DprtError as error:
            self._complaints.bad(name, str(error))
            return False
        except Exception as error:  # whatever is in a message costs the message, never the node
            self._complaints.bad(name, f'{type(error).__name__}: {error}')
            return False
        self._complaints.good(name)
        return True

    def _frame(self, camera: CameraSpec, transport: str, msg: Any, now: int) -> None:
        frame = TO_FRAME[transport](camera, msg, now)
        self._note(camera.name, frame.stamp_ns)
        if self.open:
            self._loop.observe_frame(frame)

    def _state(self, msg: Any, now: int) -> None:
        spec = self._loop.spec.state
        values = joint_state_to_values(spec.names, msg)
        spec.validate(values)
        stamp = stamp_ns(msg.header, now)
        self._note(ROBOT, stamp)
        if self.open:
            self._loop.observe_state(stamp, now, values)

    def _note(self, stream: str, stamp: int) -> None:
        self.newest[stream] = max(stamp, self.newest.get(stream, stamp))


def source(camera: str) -> str:
    """Return the name under which a camera's faults and figures are told."""
    return f'camera {camera}'
