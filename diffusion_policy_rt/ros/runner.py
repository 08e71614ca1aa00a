"""What exists while the policy node is configured: a warm loop and all that surrounds it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import Float64MultiArray, String

from diffusion_policy_rt.engines.bundle import Bundle
from diffusion_policy_rt.engines.load import load_engine
from diffusion_policy_rt.engines.parity import check_parity
from diffusion_policy_rt.ros.complaints import Complaints
from diffusion_policy_rt.ros.diagnostics import OK, Monitor, Status, to_message
from diffusion_policy_rt.ros.engine_process import EngineProcess
from diffusion_policy_rt.ros.gate import Gate
from diffusion_policy_rt.ros.info import policy_info
from diffusion_policy_rt.ros.inputs import Inputs
from diffusion_policy_rt.ros.params import NodeParams
from diffusion_policy_rt.ros.routes import make_routes
from diffusion_policy_rt.ros.teller import Teller
from diffusion_policy_rt.ros.timing import tick_to_message
from diffusion_policy_rt.runtime.clock import SteadyClock
from diffusion_policy_rt.runtime.collector import Collector
from diffusion_policy_rt.runtime.driver import Driver
from diffusion_policy_rt.runtime.loop import PLAN_FAULTS, PolicyLoop
from diffusion_policy_rt.runtime.settings import LoopSettings
from diffusion_policy_rt.runtime.tiles import TileRule
from diffusion_policy_rt.runtime.timeline import Timeline
from diffusion_policy_rt.runtime.trace import Rung, Tick
from diffusion_policy_rt.runtime.warmup import check_deadline, warm_up

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
REPORT_S = 1.0
PLANS = 'planning'
"""Source of the complaints about plans."""


class Runner:
    """A policy on a node. `start` arms it, `halt` disarms it, `destroy` gives everything back."""

    def __init__(self, node: Node, bundle: Bundle, chosen: NodeParams, timeline: Timeline) -> None:
        """Load the engine and warm it up; DprtError when it cannot run, or not in time."""
        self._node, self._timeline = node, timeline
        spec = bundle.spec
        routes = make_routes(chosen, spec.action.names, spec.rate)
        make = EngineProcess if chosen.engine_process else load_engine
        engine = make(bundle, chosen.engine, chosen.threads)
        self.loop = PolicyLoop(spec, engine, chosen.settings, SteadyClock(), chosen.seed,
                               chosen.limits, routes[0].output.velocity, chosen.rules)
        self.loop.cache.capacity = chosen.cache_capacity
        self.loop.tiling.rules = chosen.tiles
        table = self._warm_up(bundle)
        node.get_logger().info(f'{spec.name} on {engine.name}: plan p50/p99 ' + ', '.join(
            f'{n} steps {1e3 * (t["p50"] or 0):.1f}/{1e3 * (t["p99"] or 0):.1f} ms'
            for n, t in table.items()))
        self._driver: Driver | None = None
        self._reason = self._reported = ''
        self._priority, self._collector = chosen.priority, Collector()
        self._planned = False
        self._gate = Gate(node, routes, chosen.enable_output)
        self._engine = Status('engine', OK, engine.name, {
            'policy': spec.name, 'digest': bundle.digest, **engine.dtypes})
        self._connect(chosen, json.dumps(policy_info(bundle, engine, table)))

    def _warm_up(self, bundle: Bundle) -> dict[int, dict[str, float | None]]:
        engine = self.loop.engine
        try:
            check_parity(bundle, engine, engine.name)
            table = warm_up(self.loop)
            check_deadline(self.loop, table)
        except Exception:
            self._close_engine()
            raise
        return table

    def _close_engine(self) -> None:
        if isinstance(self.loop.engine, EngineProcess):
            self.loop.engine.close()

    def _connect(self, chosen: NodeParams, info: str) -> None:
        node, spec = self._node, self.loop.spec
        self._complaints = Complaints(node.get_logger().warning, node.get_logger().info)
        self._monitor = Monitor(round(chosen.window * 1e9), chosen.thresholds,
                                spec.n_obs * len(spec.cameras))
        self._inputs = Inputs(node, self.loop, chosen.cameras, self._monitor, self._complaints,
                              self._timeline.now_ns)
        self._timing = node.create_publisher(Float64MultiArray, '~/timing', 10)
        self._diagnostics = node.create_publisher(DiagnosticArray, '/diagnostics', 1)
        self._info = node.create_publisher(String, '~/policy_info', LATCHED)
        self._info.publish(String(data=info))
        # steady: diagnostics must not fall silent when /clock stands still
        self._timer = node.create_timer(REPORT_S, self._report,
                                        clock=Clock(clock_type=ClockType.STEADY_TIME))

    def destroy(self) -> None:
        """Halt, and give back publishers, subscriptions and the timer."""
        self.halt()
        self._close_engine()
        self._gate.destroy()
        self._inputs.destroy()
        self._node.destroy_timer(self._timer)
        for publisher in (self._timing, self._diagnostics, self._info):
            self._node.destroy_publisher(publisher)

    def rival(self) -> str:
        """Return why this node may not drive the robot: another one does; '' where none is."""
        return self._gate.rival()

    # -- motion --------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether it ticks."""
        return self._driver is not None

    def start(self) -> None:
        """End a halt; forget what was before, take in messages, and tick."""
        self.loop.guard.rearm()
        if self._driver is not None:
            return
        self.loop.reset()
        self._monitor.clear()
        self._planned, self._reason = False, ''
        self._inputs.open = True
        self._teller = teller = Teller(self._node.get_logger().warning)
        self._collector.start()
        self._driver = Driver(
            self.loop, self._timeline, self._gate.publish,
            lambda tick: teller.tell(self._on_tick, tick),
            lambda reason: teller.tell(self._on_reason, reason),
            prepare=self._claim, between=self._collector.sweep)
        self._driver.start()

    def halt(self) -> None:
        """Tick no more; the last action is a hold where one is known."""
        driver, self._driver = self._driver, None
        if driver is None:
            return
        self._inputs.open = False
        driver.stop()
        self._teller.close()
        self._collector.stop()
        self._gate.hold(self.loop.hold(self._timeline.now_ns()))

    def _claim(self) -> None:
        self._priority.claim(lambda told: self._teller.tell(self._node.get_logger().warning, told))

    def forget(self) -> None:
        """Drop all that was observed and planned, before the next tick."""
        if self._driver is not None:
            self._planned = False
            self._driver.reset()

    def reset(self) -> None:
        """Forget, and hold until there is a plan from new observations."""
        if self._driver is not None:
            hold = self.loop.hold(self._timeline.now_ns())
            self.forget()
            self._gate.hold(hold)

    # -- live parameters -----------------------------------------------------------------------

    def apply(self, settings: LoopSettings, cache_capacity: int, tiles: Mapping[str, TileRule],
              enable_output: bool) -> None:
        """Use other settings from the next tick on."""
        self.loop.settings = replace(settings)
        self.loop.cache.capacity = cache_capacity
        self.loop.tiling.rules = tiles
        self._gate.enable(enable_output, self.loop.hold(self._timeline.now_ns()))

    # -- telling -------------------------------------------------------------------------------

    def _on_tick(self, tick: Tick) -> None:
        self._timing.publish(tick_to_message(tick))
        self._monitor.tick(self._timeline.now_ns(), tick)
        if tick.rung in (Rung.FRESH, Rung.FEWER, Rung.CACHED):
            self._planned = True
            self._complaints.good(PLANS)

    def _on_reason(self, reason: str) -> None:
        """Tell why planning failed; before the first plan only what lasts (`_report`)."""
        self._reason = reason
        if reason and self._planned:
            self._complaints.bad(PLANS, reason)

    def _engine_status(self) -> Status:
        if not isinstance(self.loop.engine, EngineProcess):
            return self._engine
        return replace(self._engine, values={**self._engine.values,
                                             'restarts': self.loop.engine.restarts})

    def _plans(self) -> dict[str, object]:
        return {**{f'plans.{kind}': self.loop.counts[kind] for kind in PLAN_FAULTS},
                **self.loop.seams.figures(), **self.loop.tiling.figures()}

    def _report(self) -> None:
        if self.running and self._reason and self._reason == self._reported:
            self._complaints.bad(PLANS, self._reason)
        self._reported = self._reason
        statuses = self._monitor.statuses(self._timeline.now_ns(), self.running,
                                          self._inputs.dropped, self._reason,
                                          self._inputs.faults, self._plans())
        self._diagnostics.publish(to_message(
            self._node.get_name(), self.loop.spec.name, [*statuses, self._engine_status()],
            self._node.get_clock().now().to_msg()))
