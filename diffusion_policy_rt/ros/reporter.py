"""What a policy tells of itself: timing, diagnostics, what it is, and where its runs begin."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import Float64MultiArray, String

from diffusion_policy_rt.engines.bundle import Bundle
from diffusion_policy_rt.engines.caching import Caching
from diffusion_policy_rt.ros.complaints import Complaints
from diffusion_policy_rt.ros.diagnostics import OK, Monitor, Status, to_message
from diffusion_policy_rt.ros.engine_process import EngineProcess
from diffusion_policy_rt.ros.events import Event, driver_event
from diffusion_policy_rt.ros.info import policy_info
from diffusion_policy_rt.ros.inputs import Inputs
from diffusion_policy_rt.ros.params import NodeParams
from diffusion_policy_rt.ros.teller import Teller
from diffusion_policy_rt.ros.timing import tick_to_message
from diffusion_policy_rt.runtime.loop import PolicyLoop
from diffusion_policy_rt.runtime.plan import PLAN_FAULTS
from diffusion_policy_rt.runtime.trace import Rung, Tick

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
REPORT_S = 1.0
PLANS, LIMITS = 'planning', 'limits'
"""Sources of the complaints about plans, and about a robot that is out of its limits."""


class Reporter:
    """The publishers that say what a policy does. Ticks only hand over; a thread tells."""

    def __init__(self, node: Node, loop: PolicyLoop, bundle: Bundle, caching: Caching,
                 plan_s: dict[int, dict[str, float | None]], chosen: NodeParams,
                 now_ns: Callable[[], int]) -> None:
        self._node, self._loop, self._now_ns = node, loop, now_ns
        spec, engine, log = loop.spec, loop.engine, node.get_logger()
        self.complaints = Complaints(log.warning, log.info)
        self.monitor = Monitor(round(chosen.window * 1e9), chosen.thresholds,
                               spec.n_obs * len(spec.cameras))
        self._engine = Status('engine', OK, engine.name, {
            'policy': spec.name, 'digest': bundle.digest, **engine.dtypes})
        self._teller: Teller | None = None
        self._reason = self._reported = ''
        self._planned, self._outside = False, 0
        self._timing = node.create_publisher(Float64MultiArray, '~/timing', 10)
        self._events = node.create_publisher(String, '~/events', 10)
        self._diagnostics = node.create_publisher(DiagnosticArray, '/diagnostics', 1)
        self._info = node.create_publisher(String, '~/policy_info', LATCHED)
        self._info.publish(String(data=json.dumps(policy_info(
            bundle, engine, caching, plan_s, loop.settings, chosen.changed, loop.seed))))

    def watch(self, inputs: Inputs) -> None:
        """Report on these inputs from now on."""
        self._inputs = inputs
        # steady: diagnostics must not fall silent when /clock stands still
        self._timer = self._node.create_timer(
            REPORT_S, self._report, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def destroy(self) -> None:
        """Give back the publishers and the timer."""
        self._node.destroy_timer(self._timer)
        for publisher in (self._timing, self._events, self._diagnostics, self._info):
            self._node.destroy_publisher(publisher)

    # -- a run ---------------------------------------------------------------------------------

    def begin(self) -> None:
        """Begin a run."""
        self.monitor.clear()
        self._planned, self._reason = False, ''
        self._teller = Teller(self._node.get_logger().warning)

    def end(self) -> None:
        """Tell what is left to tell of the run."""
        teller, self._teller = self._teller, None
        if teller is not None:
            teller.close()

    def expect_nothing(self) -> None:
        """Take in that all was forgotten: what is missing before the next plan is no fault."""
        self._planned = False

    def event(self, event: Event) -> None:
        """Publish an event."""
        self._events.publish(String(data=event.to_json()))

    # -- from the ticking thread ---------------------------------------------------------------

    def driver_event(self, *told: Any) -> None:
        """Publish soon what `events.driver_event` makes of these arguments."""
        self._later(lambda it: self.event(driver_event(*it)), told)

    def tick(self, tick: Tick) -> None:
        """Take in a tick."""
        self._later(self._on_tick, tick)

    def reason(self, reason: str) -> None:
        """Take in why planning fails, '' when it works again."""
        self._later(self._on_reason, reason)

    def warn(self, told: str) -> None:
        """Log a warning soon."""
        self._later(lambda text: self._node.get_logger().warning(text), told)

    def _later(self, function: Callable[[Any], None], what: object) -> None:
        teller = self._teller
        if teller is not None:
            teller.tell(function, what)

    # -- telling -------------------------------------------------------------------------------

    def _on_tick(self, tick: Tick) -> None:
        self._timing.publish(tick_to_message(tick))
        self.monitor.tick(self._now_ns(), tick)
        if tick.rung in (Rung.FRESH, Rung.FEWER, Rung.CACHED):
            self._planned = True
            self.complaints.good(PLANS)

    def _on_reason(self, reason: str) -> None:
        """Tell why planning failed; before the first plan only what lasts (`_report`)."""
        self._reason = reason
        if reason and self._planned:
            self.complaints.bad(PLANS, reason)

    def _watch_limits(self) -> None:
        """Tell that actions were dropped because the robot is out of its limits."""
        clips = self._loop.hands.clips
        if clips.outside > self._outside:
            self.complaints.bad(LIMITS, f'{", ".join(clips.which)} measured so far out of '
                                'limits.*.min_position and max_position that max_velocity does '
                                'not bring it back in one step; nothing is published: move the '
                                'robot back, or widen the limits')
        else:
            self.complaints.good(LIMITS)
        self._outside = clips.outside

    def _engine_status(self) -> Status:
        engine = self._loop.engine
        if not isinstance(engine, EngineProcess):
            return self._engine
        return replace(self._engine, values={**self._engine.values, 'restarts': engine.restarts})

    def _plans(self) -> dict[str, object]:
        loop = self._loop
        return {**{f'plans.{kind}': loop.counts[kind] for kind in PLAN_FAULTS},
                **loop.hands.clips.figures(), **loop.seams.figures(), **loop.cache_figures()}

    def _report(self) -> None:
        running = self._teller is not None
        self._watch_limits()
        if running and self._reason and self._reason == self._reported:
            self.complaints.bad(PLANS, self._reason)
        self._reported = self._reason
        statuses = self.monitor.statuses(self._now_ns(), running, self._inputs.dropped,
                                         self._reason, self._inputs.faults, self._plans())
        self._diagnostics.publish(to_message(
            self._node.get_name(), self._loop.spec.name, [*statuses, self._engine_status()],
            self._node.get_clock().now().to_msg()))
