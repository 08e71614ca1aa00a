"""Declare the parameter table on a node, check changes as a set, freeze the values."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node

from diffusion_policy_rt.errors import SpecError
from diffusion_policy_rt.ros.param import Param
from diffusion_policy_rt.ros.param_values import action_limits, caches_of, stream_rules
from diffusion_policy_rt.ros.policy_params import defaults
from diffusion_policy_rt.runtime.caches import CacheRules
from diffusion_policy_rt.runtime.guard import StreamRule
from diffusion_policy_rt.runtime.limits import Limits
from diffusion_policy_rt.runtime.priority import Priority, parse_cpus
from diffusion_policy_rt.runtime.settings import LoopSettings
from diffusion_policy_rt.spec import PolicySpec

NO_JSON = (math.inf, -math.inf)
SETTINGS = tuple(f.name for f in dataclasses.fields(LoopSettings))
THRESHOLDS = ('miss_ratio', 'fallback_ratio', 'observation_age')


@dataclass(frozen=True)
class CameraParams:
    """Where one camera's frames come from."""

    topic: str
    transport: str

    @property
    def full_topic(self) -> str:
        """The topic to subscribe to."""
        return self.topic if self.transport == 'raw' else f'{self.topic}/{self.transport}'


@dataclass(frozen=True)
class NodeParams:
    """All parameters, once the bundle is known; live ones as they stood then."""

    policy: str
    engine: str
    engine_process: bool
    threads: int
    seed: int
    settings: LoopSettings
    caches: CacheRules
    action_type: str
    action_fields: tuple[str, ...]
    gripper_actions: tuple[str, ...]
    """Actions that leave on a topic of their own."""
    gripper_type: str
    frame_id: str
    enable_output: bool
    priority: Priority
    limits: Limits
    cameras: Mapping[str, CameraParams]
    rules: Mapping[str, StreamRule]
    window: float
    """Time that the diagnostics cover [s]."""
    thresholds: Mapping[str, tuple[float, float]]
    """Figure -> what lies above is WARN, is ERROR."""
    changed: Mapping[str, Any]
    """Name -> value of the parameters that are not as they are by default."""


# -- declaring ---------------------------------------------------------------------------------

def descriptor(param: Param) -> ParameterDescriptor:
    """Return what `ros2 param describe` shows."""
    made = ParameterDescriptor(
        name=param.name, description=param.description, read_only=not param.live,
        additional_constraints=f'one of {param.range}' if param.choices else '')
    if param.low is not None and param.high is not None:
        if isinstance(param.default, int):
            made.integer_range = [IntegerRange(from_value=int(param.low),
                                               to_value=int(param.high), step=1)]
        else:
            made.floating_point_range = [FloatingPointRange(from_value=float(param.low),
                                                            to_value=float(param.high))]
    return made


def declare(node: Node, params: Iterable[Param]) -> None:
    """Declare what is not declared yet; SpecError names a given value that does not fit."""
    for param in params:
        if node.has_parameter(param.name):
            continue
        try:
            value = node.declare_parameter(param.name, param.default, descriptor(param)).value
        except InvalidParameterTypeException as error:
            hint = ' (1.0, not 1)' if isinstance(param.default, float) else ''
            raise SpecError(f'parameter {param.name} must be a {param.kind}{hint}') from error
        except InvalidParameterValueException as error:
            raise SpecError(f'parameter {param.name} must lie in {param.range}') from error
        if param.choices and value not in param.choices:
            raise SpecError(f'parameter {param.name} is {value!r}; use one of {param.range}')


# -- freezing ----------------------------------------------------------------------------------

def settings_of(values: Mapping[str, Any]) -> LoopSettings:
    """Return the loop's settings among parameter values."""
    return LoopSettings(**{name: values[name] for name in SETTINGS})


def freeze(values: Mapping[str, Any], spec: PolicySpec) -> NodeParams:
    """Return the parameter values of all names as one object.

    Raises SpecError where they contradict each other or the policy.
    """
    settings, usual = settings_of(values), defaults(spec)
    settings.check(spec)
    plain = ('policy', 'engine', 'engine_process', 'threads', 'seed', 'action_type', 'frame_id',
             'enable_output')
    threshold = 'diagnostics.threshold'
    return NodeParams(
        **{name: values[name] for name in plain}, settings=settings,
        caches=caches_of(values, spec),
        action_fields=spec.action.names if values['action_fields'] == [''] else tuple(
            values['action_fields']),
        gripper_actions=tuple(name for name in values['gripper.actions'] if name),
        gripper_type=values['gripper.action_type'],
        priority=Priority(values['realtime.priority'], parse_cpus(values['realtime.cpus']),
                          values['realtime.lock_memory']),
        limits=action_limits(values, spec.action.names),
        cameras={c.name: CameraParams(values[f'cameras.{c.name}.topic'],
                                      values[f'cameras.{c.name}.transport'])
                 for c in spec.cameras},
        rules=stream_rules(values, spec),
        window=values['diagnostics.window'],
        thresholds={name: (values[f'{threshold}.{name}.warn'], values[f'{threshold}.{name}.error'])
                    for name in THRESHOLDS},
        changed={name: value for name, value in values.items()
                 if name in usual and value != usual[name] and value not in NO_JSON})



def refusal(values: Mapping[str, Any], changes: Mapping[str, Any], spec: PolicySpec) -> str:
    """Return why `changes` to `values` cannot be made as a set; '' when they can. Pure."""
    changed = {**values, **changes}
    try:
        settings_of(changed).check(spec)
        caches_of(changed, spec)
    except SpecError as error:
        return str(error)
    return ''
