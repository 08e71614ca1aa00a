"""Which values of an action leave on which topic: the arm's, and the gripper's where it is apart.

    actions [K, A] --columns of the arm------> ~/action          action_type
                   --columns of the gripper--> ~/gripper_action  gripper.action_type
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from diffusion_policy_rt.errors import SpecError
from diffusion_policy_rt.ros.outputs import Output, make_output

if TYPE_CHECKING:
    from diffusion_policy_rt.ros.params import NodeParams


@dataclass(frozen=True)
class Route:
    """One way on which a part of each action leaves."""

    name: str
    """Its topics are ~/NAME and ~/shadow_NAME."""
    columns: list[int]
    """Of the actions."""
    output: Output

    @cached_property
    def part(self) -> slice | list[int]:
        """What picks the columns: without a copy, where they lie side by side."""
        first, end = self.columns[0], self.columns[-1] + 1
        return slice(first, end) if self.columns == list(range(first, end)) else self.columns


def make_routes(chosen: NodeParams, names: Sequence[str], rate: float) -> list[Route]:
    """Return the routes of actions `names` at the policy's rate [Hz]: the arm's first.

    Raises SpecError where the parameters do not fit the policy or each other.
    """
    if len(chosen.action_fields) != len(names):
        raise SpecError(f'action_fields {list(chosen.action_fields)} must be {len(names)} '
                        f'distinct names, one per action ({", ".join(names)})')
    apart = _apart(chosen.gripper_actions, names)
    arm = [column for column in range(len(names)) if column not in apart]
    routes = [_route('action', chosen.action_type, arm, chosen, names, rate)]
    if apart:
        routes.append(_route('gripper_action', chosen.gripper_type, apart, chosen, names, rate))
    if routes[0].output.velocity and apart:
        raise SpecError(f'gripper.actions go with positions, and {chosen.action_type} has '
                        'velocities; leave gripper.actions empty or use another action_type')
    return routes


def _route(name: str, kind: str, columns: list[int], chosen: NodeParams, names: Sequence[str],
           rate: float) -> Route:
    fields = [chosen.action_fields[column] for column in columns]
    return Route(name, columns, make_output(kind, fields, [names[column] for column in columns],
                                            rate, chosen.frame_id))


def _apart(wanted: Sequence[str], names: Sequence[str]) -> list[int]:
    unknown = [name for name in wanted if name not in names]
    if unknown:
        raise SpecError(f'gripper.actions: the policy has no action {unknown[0]!r}; its actions '
                        f'are {", ".join(names)}')
    if len(set(wanted)) == len(names):
        raise SpecError('gripper.actions name all actions; leave at least one for ~/action')
    return [names.index(name) for name in dict.fromkeys(wanted)]
