"""What exists while the policy node is configured: a warm loop and all that surrounds it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rclpy.node import Node

from diffusion_policy_rt.engines.bundle import Bundle
from diffusion_policy_rt.engines.caching import Caching
from diffusion_policy_rt.engines.load import load_engine
from diffusion_policy_rt.engines.parity import check_parity
from diffusion_policy_rt.ros.engine_process import EngineProcess
from diffusion_policy_rt.ros.events import ACT, PLAN, RESET, START, STOP, Event
from diffusion_policy_rt.ros.gate import Gate
from diffusion_policy_rt.ros.inputs import Inputs
from diffusion_policy_rt.ros.params import NodeParams
from diffusion_policy_rt.ros.reporter import Reporter
from diffusion_policy_rt.ros.routes import make_routes
from diffusion_policy_rt.runtime.caches import CacheRules
from diffusion_policy_rt.runtime.clock import SteadyClock
from diffusion_policy_rt.runtime.collector import Collector
from diffusion_policy_rt.runtime.driver import Driver
from diffusion_policy_rt.runtime.loop import Action, PolicyLoop
from diffusion_policy_rt.runtime.plan import Fate
from diffusion_policy_rt.runtime.settings import LoopSettings
from diffusion_policy_rt.runtime.timeline import Timeline
from diffusion_policy_rt.runtime.trace import Rung
from diffusion_policy_rt.runtime.warmup import check_deadline, warm_up

Asked = tuple[int, Sequence[float] | None]
"""When a reset was asked for [ns], and the hold that was published."""


class Runner:
    """A policy on a node. `start` arms it, `halt` disarms it, `destroy` gives everything back."""

    def __init__(self, node: Node, bundle: Bundle, chosen: NodeParams, timeline: Timeline) -> None:
        """Load the engine and warm it up; DprtError when it cannot run, or not in time."""
        self._timeline, self._log = timeline, node.get_logger()
        spec = bundle.spec
        routes = make_routes(chosen, spec.action.names, spec.rate)
        make = EngineProcess if chosen.engine_process else load_engine
        engine = make(bundle, chosen.engine, chosen.threads)
        self.loop = PolicyLoop(spec, engine, chosen.settings, SteadyClock(), chosen.seed,
                               chosen.limits, routes[0].output.velocity, chosen.rules)
        self.loop.keep(chosen.caches)
        self._priority = chosen.priority
        self._table = table = self._warm_up(bundle)
        self._caching = Caching.of(bundle, engine, self.loop.tiling.exact)
        self._warn_of(chosen.caches)
        self._log.info(f'{spec.name} on {engine.name}: plan p50/p99 ' + ', '.join(
            f'{n} steps {1e3 * (t["p50"] or 0):.1f}/{1e3 * (t["p99"] or 0):.1f} ms'
            for n, t in table.items()))
        self._driver: Driver | None = None
        self._asked: Asked | None = None
        self._collector = Collector()
        self._gate = Gate(node, routes, chosen.enable_output)
        self._reporter = Reporter(node, self.loop, bundle, self._caching, table, chosen,
                                  timeline.now_ns)
        self._inputs = Inputs(node, self.loop, chosen.cameras, self._reporter.monitor,
                              self._reporter.complaints, timeline.now_ns)
        self._reporter.watch(self._inputs)

    def _warm_up(self, bundle: Bundle) -> dict[int, dict[str, float | None]]:
        engine = self.loop.engine
        try:
            check_parity(bundle, engine, engine.name)
            with self._priority.rehearsed():
                table = warm_up(self.loop)
                check_deadline(self.loop, table)
        except Exception:
            self._close_engine()
            raise
        return table

    def _warn_of(self, caches: CacheRules) -> None:
        for told in self._caching.in_vain(caches):
            self._log.warning(told)

    def _close_engine(self) -> None:
        if isinstance(self.loop.engine, EngineProcess):
            self.loop.engine.close()

    def destroy(self) -> None:
        """Halt, and give back publishers, subscriptions and the timer."""
        self.halt()
        self._close_engine()
        self._gate.destroy()
        self._inputs.destroy()
        self._reporter.destroy()

    def rival(self) -> str:
        """Return why this node may not drive the robot: another one does; '' where none is."""
        return self._gate.rival()

    def check_deadline(self) -> None:
        """Raise SpecError where no plan meets the deadline as it is now; not while it ticks."""
        with self._priority.rehearsed():
            check_deadline(self.loop, self._table)

    # -- motion --------------------------------------------------------------------------------

    def start(self) -> None:
        """End a halt; forget what was before, take in messages, and tick."""
        self.loop.guard.rearm()
        if self._driver is not None:
            now = self._timeline.now_ns()
            self._reporter.event(Event(START, now, now))
            return
        self.loop.reset()
        self._asked = None
        reporter = self._reporter
        reporter.begin()
        self._collector.start()
        self._driver = Driver(
            self.loop, self._timeline, self._gate.publish, reporter.tick, reporter.reason,
            prepare=lambda: self._priority.claim(reporter.warn), between=self._collector.sweep,
            on_event=self._on_event,
            rest=lambda hold: self._gate.hold(hold, self.loop.rest_step_s))
        self._driver.start()

    def halt(self) -> None:
        """Tick no more; the last action is a hold where one is known."""
        driver, self._driver = self._driver, None
        if driver is None:
            return
        self._inputs.open = False
        driver.stop()
        self._priority.release()
        self._reporter.end()
        self._collector.stop()
        now = self._timeline.now_ns()
        hold = self.loop.hold(now)
        self._reporter.event(Event(STOP, now, now, held=_held(hold)))
        self._gate.hold(hold, self.loop.rest_step_s)

    def forget(self) -> None:
        """Drop all that was observed and planned, before the next tick."""
        if self._driver is not None:
            self._reporter.expect_nothing()
            self._driver.reset()

    def reset(self) -> None:
        """Forget, and hold until there is a plan from new observations."""
        if self._driver is not None:
            now = self._timeline.now_ns()
            hold = self.loop.hold(now)
            self._asked = now, _held(hold)
            self.forget()
            self._gate.hold(hold, self.loop.rest_step_s)

    def _on_event(self, kind: str, at_ns: int, fate: Fate | None) -> None:
        """In the ticking thread: hand over what a re-enactment needs to know."""
        asked, held, measured, newest = None, None, None, dict[str, int]()
        if kind == PLAN:
            newest = self.loop.looked
        elif kind == ACT:
            measured = self.loop.hands.counted
        elif kind == START or self._asked is not None:  # stamps say nothing after a clock jump
            newest = dict(self._inputs.newest)
        if kind == START:
            self._inputs.open = True  # so that a recording tells what came before
        elif kind == RESET and self._asked is not None:
            (asked, held), self._asked = self._asked, None
        self._reporter.driver_event(kind, at_ns, newest, asked, held, fate, measured)

    # -- live parameters -----------------------------------------------------------------------

    def apply(self, settings: LoopSettings, caches: CacheRules, enable_output: bool) -> None:
        """Use other settings from the next tick on."""
        self.loop.settings = replace(settings)
        if caches != self.loop.rules:
            self._warn_of(caches)
        self.loop.keep(caches)
        self._gate.enable(enable_output, lambda: self.loop.hold(self._timeline.now_ns()),
                          self.loop.rest_step_s)


def _held(hold: Action) -> Sequence[float] | None:
    """Return the action that a hold publishes, [A]; None where it publishes none."""
    return hold.actions[0].tolist() if hold.rung == Rung.HOLD else None
