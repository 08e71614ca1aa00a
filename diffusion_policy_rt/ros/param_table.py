"""The parameters of the policy node in one table, from which all else about them follows.

`python -m diffusion_policy_rt.ros.param_table` prints docs/parameters.md.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffusion_policy_rt.errors import SpecError
from diffusion_policy_rt.runtime.guard import ON_STALE, StreamRule
from diffusion_policy_rt.runtime.limits import Limits
from diffusion_policy_rt.runtime.observation import ROBOT
from diffusion_policy_rt.runtime.settings import LoopSettings
from diffusion_policy_rt.runtime.caches import CacheRules
from diffusion_policy_rt.runtime.tiles import TileRule
from diffusion_policy_rt.spec import PolicySpec

INF = float('inf')
KINDS = {bool: 'bool', int: 'integer', float: 'double', str: 'string', list: 'string array'}


@dataclass(frozen=True)
class Param:
    """One parameter."""

    name: str
    default: Any
    description: str
    """A sentence, with the unit in brackets."""
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    live: bool = False
    """Whether it can be set while the node runs; else it is read-only."""

    @property
    def range(self) -> str:
        """Say what is accepted, for people."""
        if self.choices:
            return ', '.join(self.choices)
        return '' if self.low is None else f'{self.low:.10g} .. {self.high:.10g}'

    @property
    def kind(self) -> str:
        """The ROS name of its type."""
        return KINDS[type(self.default)]


def stale_params(prefix: str, stream: str) -> list[Param]:
    """Return the parameters that say what happens while a stream is stale."""
    return [
        Param(f'{prefix}.on_stale', 'drop',
              f'While {stream} is stale or unfit: drop plans and follow the chunk to its end; '
              'hold at once; or halt, which is one hold and then silence until ~/start.',
              choices=ON_STALE),
        Param(f'{prefix}.hold_ticks', 10,
              f'Ticks on hold after which {stream} is given up and the robot halted.', 1,
              1_000_000)]


D = LoopSettings()
SHARE = 'Share of ticks'
TABLE = [
    Param('policy', '',
          'Folder of the bundle, or the name of a shipped one; empty for the shipped Push-T '
          'policy.'),
    Param('engine', 'auto',
          'What runs the networks: auto, or the name of an engine (`dprt info` lists them).'),
    Param('engine_process', False,
          'Run the engine in a process of its own, which is started again when it dies or hangs.'),
    Param('threads', 1, 'CPU threads per network call.', 1, 256),
    Param('seed', 0, 'Seed of the sampling noise.', 0, 2**31 - 1),
    Param('control_rate', D.control_rate, 'Actions published per second [Hz].', 0.1, 1000,
          live=True),
    Param('deadline', D.deadline,
          'Time after a tick\'s scheduled instant by which its action must have left [s].',
          0.0005, 10, live=True),
    Param('min_steps', D.min_steps, 'Fewest network calls per plan.', 1, 1000, live=True),
    Param('max_steps', D.max_steps,
          'Most network calls per plan; as many as fit the deadline are used.', 1, 1000,
          live=True),
    Param('observation_timeout', D.observation_timeout,
          'Age above which an image or a state is not planned from [s].', 0.001, 60, live=True),
    Param('action_timeout', D.action_timeout,
          'Age of its observation above which a planned action is not executed [s].', 0.001, 60,
          live=True),
    Param('max_camera_skew', D.max_camera_skew,
          'Largest difference between the cameras\' newest stamps [s].', 0, 60, live=True),
    Param('n_action_steps', D.n_action_steps,
          'Actions executed from a chunk before the next plan, less those that latency took; 0 '
          'takes the bundle\'s.', 0, 1000, live=True),
    Param('replan_ticks', D.replan_ticks,
          'Ticks from one plan to the next, in the place of n_action_steps; 1 plans in every '
          'tick, also where control_rate is above the policy\'s rate; 0 goes by n_action_steps.',
          0, 1000, live=True),
    Param('seam_limit', D.seam_limit,
          'How far actions may jump where chunks meet, in normalised actions; 0 takes the '
          'bundle\'s stride, and bounds nothing where it tells none.', 0, 1e6, live=True),
    Param('blend_steps', D.blend_steps,
          'Actions over which what a jump between chunks has beyond seam_limit fades; 0 leaves '
          'jumps as they are.', 0, 1000, live=True),
    Param('cache.capacity', 64, 'Encoded frames kept, over all cameras.', 1, 100_000, live=True),
    Param('cache.condition', True,
          'Keep what the denoiser makes of an observation alone, where the bundle has it in '
          'parts; changes no action.', live=True),
    Param('cache.blocks', False,
          'Keep branches of the denoiser between the network calls of a plan, where the bundle '
          'tells which (dprt cache); approximate.', live=True),
    Param('cache.warm_start', 0.0,
          'Noise level, in deviations of the data, to which the last chunk is noised for the next '
          'plan to go on from it; 0 starts from noise alone, 2 suits plain policies of few steps; '
          'it changes actions; above 0 it is 0.001 or more.', 0, 100, live=True),
    Param('action_type', 'joint_trajectory', 'Type of the published action.',
          choices=('joint_trajectory', 'float64_multi_array', 'twist_stamped', 'pose_stamped')),
    Param('action_fields', [''],
          'Per action the joint name it is published under, or the part of the message it fills, '
          'such as linear.x; one empty name takes the actions\' own. YAML wants quotes around a '
          'name such as \'y\'.'),
    Param('gripper.actions', [''],
          'Actions that leave on ~/gripper_action instead of ~/action: those of a gripper with a '
          'controller of its own; one empty name for none.'),
    Param('gripper.action_type', 'float64_multi_array', 'Type of the messages on '
          '~/gripper_action.', choices=('joint_trajectory', 'float64_multi_array')),
    *stale_params('state', 'the robot state'),
    Param('frame_id', '', 'frame_id of the published action\'s header.'),
    Param('enable_output', False,
          'Publish on ~/action; false is a dry run on ~/shadow_action.', live=True),
    Param('realtime.priority', 0,
          'SCHED_FIFO priority of the ticking thread; the other threads of the node then have 1, '
          'and an engine that computes for long belongs into a process of its own '
          '(engine_process). 0 leaves the default scheduling. A warning tells what the system '
          'denies.', 0, 99),
    Param('realtime.cpus', '',
          'Cores that the ticking thread may run on, such as 0,2; empty for all.'),
    Param('realtime.lock_memory', False, 'Keep the process\' memory from being swapped out.'),
    Param('diagnostics.window', 10.0, 'Time that the figures on /diagnostics cover [s].', 1, 3600),
    Param('diagnostics.threshold.miss_ratio.warn', 0.01,
          f'{SHARE} that missed the deadline, for WARN.', 0, 1),
    Param('diagnostics.threshold.miss_ratio.error', 0.1,
          f'{SHARE} that missed the deadline, for ERROR.', 0, 1),
    Param('diagnostics.threshold.fallback_ratio.warn', 0.05,
          f'{SHARE} on the rungs HOLD and STOP, for WARN.', 0, 1),
    Param('diagnostics.threshold.fallback_ratio.error', 0.5,
          f'{SHARE} on the rungs HOLD and STOP, for ERROR.', 0, 1),
    Param('diagnostics.threshold.observation_age.warn', 0.2,
          'Largest age of the newest image at a tick, for WARN [s].', 0, 60),
    Param('diagnostics.threshold.observation_age.error', 0.5,
          'Largest age of the newest image at a tick, for ERROR [s].', 0, 60),
]
"""What every policy has; declared when the node starts."""


def action_params(names: Iterable[str], low: Iterable[float],
                  high: Iterable[float]) -> list[Param]:
    """Return the parameters of a policy's actions, bounded by `low` and `high`."""
    params: list[Param] = []
    for name, lo, hi in zip(names, low, high):
        params += [
            Param(f'limits.{name}.min_position', float(lo), 'Lowest value published [unit].'),
            Param(f'limits.{name}.max_position', float(hi), 'Highest value published [unit].'),
            Param(f'limits.{name}.max_velocity', INF,
                  'Largest rate of change published, from the measured state on; of a velocity, '
                  'whose rate is an acceleration, from the last one published on [unit/s].'),
            Param(f'limits.{name}.max_acceleration', INF,
                  'Largest change of the rate of a position; it is also braked in time for its '
                  'limits, for where the chunk turns and when it is held [unit/s^2].')]
    return params


def camera_params(name: str) -> list[Param]:
    """Return the parameters of one camera."""
    return [
        Param(f'cameras.{name}.topic', f'camera/{name}/image_raw',
              'Topic of the raw images; compressed ones are on <topic>/compressed.'),
        Param(f'cameras.{name}.transport', 'raw', 'Type of the images.',
              choices=('raw', 'compressed')),
        Param(f'cameras.{name}.min_brightness', 2.0,
              'Mean of the pixels below which an image is black and not planned from; 0 accepts '
              'all.', 0, 255),
        Param(f'cameras.{name}.frozen_timeout', 0.0,
              'Time over which pixels that do not change count as frozen [s]; 0 accepts all. The '
              'noise of a real camera changes them in every image, a simulated one may stand '
              'still.', 0, 60),
        *stale_params(f'cameras.{name}', 'the camera')]


def tile_params(name: str, rule: TileRule) -> list[Param]:
    """Return the parameters that say when parts of a camera's image are not encoded again."""
    prefix = f'cache.{name}'
    return [
        Param(f'{prefix}.tiles', rule.tiles,
              'Encode only the parts of an image that changed, where the policy\'s encoder and '
              'the engine allow it.', live=True),
        Param(f'{prefix}.threshold', rule.threshold,
              'Largest difference of a pixel that counts as no change, of 255; 0 changes no '
              'action.', 0, 255, live=True),
        Param(f'{prefix}.max_age', rule.max_age,
              'Age above which an image is encoded whole again [s]; 0 sets no limit.', 0, 3600,
              live=True)]


def policy_params(spec: PolicySpec) -> list[Param]:
    """Return the parameters whose names a policy decides; declared when its bundle is read."""
    return [*action_params(spec.action.names, spec.action.low, spec.action.high),
            *(param for camera in spec.cameras for param in (
                *camera_params(camera.name), *tile_params(camera.name, TileRule.of(camera))))]


def defaults(spec: PolicySpec) -> dict[str, Any]:
    """Return the value that each parameter has where none is given."""
    return {param.name: param.default for param in [*TABLE, *policy_params(spec)]}


def stream_rules(values: Mapping[str, Any], spec: PolicySpec) -> dict[str, StreamRule]:
    """Return what parameter values ask of each stream."""
    rules = {ROBOT: StreamRule(values['state.on_stale'], values['state.hold_ticks'])}
    for camera in spec.cameras:
        rules[camera.name] = StreamRule(**{
            f.name: values[f'cameras.{camera.name}.{f.name}']
            for f in dataclasses.fields(StreamRule)})
    return rules


def caches_of(values: Mapping[str, Any], spec: PolicySpec) -> CacheRules:
    """Return the rules of all caches among parameter values."""
    return CacheRules(values['cache.capacity'], values['cache.condition'], values['cache.blocks'],
                      values['cache.warm_start'], tiles_of(values, spec))


def tiles_of(values: Mapping[str, Any], spec: PolicySpec) -> dict[str, TileRule]:
    """Return each camera's rule for tiles among parameter values."""
    return {camera.name: TileRule(**{
        f.name: values[f'cache.{camera.name}.{f.name}'] for f in dataclasses.fields(TileRule)})
        for camera in spec.cameras}


def action_limits(values: Mapping[str, Any], names: Iterable[str]) -> Limits:
    """Return the limits among parameter values; SpecError where they contradict each other."""
    for name in names:
        prefix = f'limits.{name}'
        if not values[f'{prefix}.min_position'] < values[f'{prefix}.max_position']:
            raise SpecError(f'{prefix}.min_position must lie below {prefix}.max_position')
        for bound in ('max_velocity', 'max_acceleration'):
            if not values[f'{prefix}.{bound}'] > 0:
                raise SpecError(f'{prefix}.{bound} must be above zero; .inf sets no limit')
    return Limits(*(np.array([values[f'limits.{name}.{bound}'] for name in names]) for bound in (
        'min_position', 'max_position', 'max_velocity', 'max_acceleration')))


# -- documentation -----------------------------------------------------------------------------

HEAD = """# Parameters of the policy node

Made by `python -m diffusion_policy_rt.ros.param_table > docs/parameters.md`; do not edit.

Units are SI: seconds and Hz; limits are in the unit of the policy's action (`dprt info` shows it).
Read-only parameters are fixed when the node starts, by `--params-file` or `-p`. Live ones can be
set at any time. A set that contradicts itself is refused as a set, with the reason:
`deadline` <= 1 / `control_rate`, `deadline` < `observation_timeout` < `action_timeout`,
`min_steps` <= `max_steps`. Parameters that must change together go through the service
`~/set_parameters_atomically`.

Those with `<action>` or `<camera>` in their name are declared when the node is configured, because
the policy names them. The topic of the robot state is chosen by remapping `joint_states`.

| name | type | default | range | when | meaning |
|---|---|---|---|---|---|"""
FROM_POLICY = {'limits.<action>.min_position': 'the policy\'s bound',
               'limits.<action>.max_position': 'the policy\'s bound',
               'cache.<camera>.tiles': '`true`, but for a camera on the arm'}


def render() -> str:
    """Return docs/parameters.md."""
    rows = [*TABLE, *action_params(['<action>'], [-INF], [INF]), *camera_params('<camera>'),
            *tile_params('<camera>', TileRule(True))]
    lines = [f'| `{p.name}` | {p.kind} | {FROM_POLICY.get(p.name) or _yaml(p.default)} | '
             f'{p.range} | {"live" if p.live else "read-only"} | {p.description} |' for p in rows]
    return '\n'.join([HEAD, *lines]) + '\n'


def _yaml(value: Any) -> str:
    if value == INF:
        return '`.inf`'
    return f'`{str(value).lower()}`' if isinstance(value, bool) else f'`{value!r}`'


if __name__ == '__main__':
    print(render(), end='')
