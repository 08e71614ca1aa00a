"""`Tick` to the message of `~/timing`."""

from __future__ import annotations

from std_msgs.msg import Float64MultiArray, MultiArrayDimension, MultiArrayLayout

from diffusion_policy_rt.runtime.trace import FIELDS, Tick

LAYOUT = MultiArrayLayout(
    dim=[MultiArrayDimension(label=name, size=1, stride=1) for name in FIELDS])


def tick_to_message(tick: Tick) -> Float64MultiArray:
    """Return one value per field, NaN where the tick has none; the field's name is its label."""
    return Float64MultiArray(layout=LAYOUT, data=tick.values())
