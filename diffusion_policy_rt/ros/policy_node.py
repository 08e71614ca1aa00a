"""`policy_node`: a managed lifecycle node that publishes one action in every control period."""

from __future__ import annotations

import sys
import threading
from typing import Any

from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType, JumpThreshold
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from std_srvs.srv import Trigger

from diffusion_policy_rt.engines.bundle import read_bundle
from diffusion_policy_rt.errors import DprtError
from diffusion_policy_rt.ros import params
from diffusion_policy_rt.ros.param_table import TABLE
from diffusion_policy_rt.ros.param_values import caches_of
from diffusion_policy_rt.ros.policy_params import policy_params
from diffusion_policy_rt.ros.runner import Runner
from diffusion_policy_rt.ros.sim_time import RosTimeline
from diffusion_policy_rt.ros.spin import run
from diffusion_policy_rt.runtime.timeline import SteadyTimeline

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
CLOCK_STEP_NS = 100_000_000
"""Difference between the wall clock and ours that can only be a step of the former [ns]."""
JUMP = JumpThreshold(min_forward=Duration(seconds=1), min_backward=Duration(nanoseconds=-1))
"""A change of /clock that is no passing of time."""


class PolicyNode(LifecycleNode):
    """The ROS face of a `Runner`: lifecycle, services and parameters.

    configure reads the bundle and warms up; activate starts to tick, armed; `~/stop` disarms and
    `~/start` arms again. Every way out of motion ends in one hold.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__('policy', **options)
        self.finished = threading.Event()
        self._runner: Runner | None = None
        self._active = False
        params.declare(self, TABLE)
        self.add_on_set_parameters_callback(self._check)
        self.add_post_set_parameters_callback(self._apply)
        for name, serve in (('start', self._serve_start), ('stop', self._serve_stop),
                            ('reset', self._serve_reset)):
            self.create_service(Trigger, f'~/{name}', serve)
        self._keep_time()

    # -- lifecycle -----------------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Read the bundle, load the engine, warm up; one logged line when any of it fails."""
        try:
            bundle = read_bundle(self.get_parameter('policy').value)
            params.declare(self, policy_params(bundle.spec))
            chosen = params.freeze(self._values(), bundle.spec)
            self._runner = Runner(self, bundle, chosen, self._timeline)
        except DprtError as error:
            self.get_logger().error(f'cannot configure: {error}')
        except Exception as error:  # rclpy would swallow it without a word
            self.get_logger().error(f'cannot configure: {type(error).__name__}: {error}')
        return SUCCESS if self._runner else FAILURE

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start to tick, unless another node drives the robot."""
        assert self._runner is not None
        reason = self._runner.rival() if self.get_parameter('enable_output').value else ''
        try:
            self._runner.check_deadline()  # it may have been set since
        except DprtError as error:
            reason = reason or str(error)
        if reason:
            self.get_logger().error(f'cannot activate: {reason}')
            return FAILURE
        self._active = True
        self._runner.start()
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop to tick; the robot holds."""
        self._active = False
        if self._runner is not None:
            self._runner.halt()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Let go of the policy."""
        self.close()
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop and let go of the policy, wherever the node stands."""
        self.close()
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Return to unconfigured."""
        self.close()
        return SUCCESS

    def close(self) -> None:
        """Stop to tick, hold, and let go of the policy."""
        runner, self._runner, self._active = self._runner, None, False
        if runner is not None:
            runner.destroy()

    def destroy_node(self) -> None:
        """Leave the graph at once.

        rclpy forgets the lifecycle's own services and topic: with them a destroyed node would
        stand in the graph, and its services seem ready, until Python collects it.
        """
        super().destroy_node()
        self._state_machine.destroy_when_not_in_use()

    # -- services ------------------------------------------------------------------------------

    def _serve_start(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self._runner is None or not self._active:
            return _answer(response, False, 'the node is not active; activate it first')
        self._runner.start()
        return _answer(response, True, 'started')

    def _serve_stop(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self._runner is not None:
            self._runner.halt()
        return _answer(response, True, 'stopped')

    def _serve_reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self._runner is not None:
            self._runner.reset()
        return _answer(response, True, 'observations, latents and the chunk are forgotten')

    # -- parameters ----------------------------------------------------------------------------

    def _values(self) -> dict[str, Any]:
        names = self.list_parameters([], 0).names
        return {p.name: p.value for p in self.get_parameters(names)}

    def _check(self, changes: list[Parameter]) -> SetParametersResult:
        """Refuse a set that contradicts itself or the policy, once there is one."""
        reason = '' if self._runner is None else params.refusal(
            self._values(), {p.name: p.value for p in changes}, self._runner.loop.spec)
        if self._runner and any(p.name == 'enable_output' and p.value for p in changes):
            reason = reason or self._runner.rival()
        return SetParametersResult(successful=not reason, reason=reason)

    def _apply(self, changes: list[Parameter]) -> None:
        if self._runner is not None:
            values = self._values()
            spec = self._runner.loop.spec
            self._runner.apply(params.settings_of(values), caches_of(values, spec),
                               values['enable_output'])

    # -- time ----------------------------------------------------------------------------------

    def _keep_time(self) -> None:
        """Choose the timeline, and forget observations when it jumps under them."""
        clock = self.get_clock()
        if self.get_parameter('use_sim_time').value:
            self._timeline: RosTimeline | SteadyTimeline = RosTimeline(clock)
            self._jumps = clock.create_jump_callback(
                JUMP, pre_callback=self._forget, post_callback=lambda jump: self._forget())
            return
        self._timeline = SteadyTimeline(clock.now().nanoseconds)
        self.create_timer(1.0, self._follow_wall_clock,
                          clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _follow_wall_clock(self) -> None:
        """Stamps follow the wall clock: after it was set, so must ages."""
        step = self.get_clock().now().nanoseconds - self._timeline.now_ns()
        if isinstance(self._timeline, SteadyTimeline) and abs(step) > CLOCK_STEP_NS:
            self._timeline.shift(step)
            self._forget()
            self.get_logger().warning(f'the wall clock was set by {step / 1e9:.3f} s; '
                                      'observations from before are forgotten')

    def _forget(self) -> None:
        if self._runner is not None:
            self._runner.forget()


def _answer(response: Trigger.Response, done: bool, message: str) -> Trigger.Response:
    response.success, response.message = done, message
    return response


def main(args: list[str] | None = None) -> int:
    """Run the node until it is interrupted; return the exit code."""
    return run(PolicyNode, args)


if __name__ == '__main__':
    sys.exit(main())
