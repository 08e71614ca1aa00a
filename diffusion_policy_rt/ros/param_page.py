"""The page of all parameters: `python -m diffusion_policy_rt.ros.param_page` prints it."""

from __future__ import annotations

from typing import Any

from diffusion_policy_rt.ros.param_table import TABLE
from diffusion_policy_rt.ros.policy_params import INF, action_params, camera_params, tile_params
from diffusion_policy_rt.runtime.tiles import TileRule

HEAD = """# Parameters of the policy node

Made by `python -m diffusion_policy_rt.ros.param_page > docs/parameters.md`; do not edit.

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
