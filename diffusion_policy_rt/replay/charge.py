"""What a plan costs in a replay: a model that is charged to the timeline, not this machine's load.

    0                                nothing
    12ms                             any plan takes 12 ms, however many steps it takes
    12ms,p99=20ms,encode=3ms         lognormal; encoding takes 3 ms of it
    call=1.2ms,p99=20ms,encode=3ms   each network call 1.2 ms; p99 is that of the most steps
    measured                         measured here before the replay, then kept as the form above
    BAG or trace.jsonl               drawn from the plans of a recorded `~/timing`
    recorded                         each plan as it was in the recording of the policy's own run
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffusion_policy_rt.errors import DataError, SpecError
from diffusion_policy_rt.replay.virtual import Costs
from diffusion_policy_rt.ros.bag import read_bag
from diffusion_policy_rt.runtime.latency import LatencyModel
from diffusion_policy_rt.runtime.loop import PolicyLoop
from diffusion_policy_rt.runtime.trace import read_values
from diffusion_policy_rt.runtime.warmup import warm_up
from diffusion_policy_rt.text import parse_time

Z99 = 2.3263478740408408
"""Standard score of the 99th percentile."""
PRIMED = 100
"""Plans that the loop is told of before the first tick, as after the node's warm-up."""


@dataclass(frozen=True)
class Charge:
    """Draws the cost of each plan by the plan's instant, so that the same replay pays the same."""

    text: str
    """What gives the same model again."""
    samples: np.ndarray
    """float64 [N, 3]: ns of encoding, of a plan's sampling whatever its steps, and of each network
    call; one row is drawn per plan."""
    spread: float = 0.0
    """Standard deviation of the logarithm of a factor on the row drawn."""

    def draw(self, seed: int, at_ns: int) -> Costs:
        """Return what the plan at `at_ns` costs: a row of `samples`, times its factor [ns]."""
        row = self.samples[0]
        if self.spread or len(self.samples) > 1:
            rng = np.random.default_rng((seed, at_ns % 2**64))
            row = self.samples[rng.integers(len(self.samples))]
            row = row * math.exp(self.spread * rng.standard_normal())
        encode, once, call = row.tolist()
        return Costs(round(encode), round(once), round(call))

    def prime(self, latencies: LatencyModel, allowed: tuple[int, ...], seed: int) -> None:
        """Tell a loop's latencies what plans cost, so that the first tick knows what fits."""
        for k in range(PRIMED):
            encode, once, call, _ = self.draw(seed, k)
            latencies.record('encode', encode)
            for steps in allowed:
                latencies.record(steps, once + steps * call)


AS_RECORDED = 'recorded'
"""The latency of a run that is done again."""


def modelled(text: str, most_steps: int) -> Charge:
    """Return the model that a text of the first forms tells; SpecError tells the form."""
    head, *rest = text.split(',')
    if '=' in head:
        head, rest = '0', [head, *rest]
    options = dict(part.partition('=')[::2] for part in rest)
    unknown = sorted(set(options) - {'p99', 'encode', 'call'})
    if unknown or ('call' in options and head != '0'):
        raise SpecError(f'latency {text!r} is no model; write it like 12ms,p99=20ms,encode=3ms or '
                        'call=1ms,encode=3ms, or name a bag with ~/timing')
    encode, call = (parse_time(options.get(key, '0')) for key in ('encode', 'call'))
    plan = encode + most_steps * call if 'call' in options else parse_time(head)
    p99 = parse_time(options['p99']) if 'p99' in options else plan
    if p99 < plan or encode > plan:
        raise SpecError(f'latency {text!r}: p99 must not lie below the plan\'s time, nor encode '
                        'above it')
    spread = math.log(p99 / plan) / Z99 if plan else 0.0
    once = plan - encode - most_steps * call
    return Charge(text, np.array([[encode, once, call]], float), spread)


def recorded(path: Path) -> Charge:
    """Return the costs of the plans in a bag's `~/timing`, or in a trace.jsonl."""
    if path.suffix == '.jsonl':
        ticks = [json.loads(line) for line in path.read_text().splitlines()]
        rows = [(t['encode_s'], t['denoise_s'], t['steps']) for t in ticks]
    else:
        values = [read_values(m.data.data) for m in read_bag(path) if m.topic.endswith('/timing')]
        rows = [(t.encode_s, t.denoise_s, t.steps) for t in values]
    kept = [(1e9 * e, 0.0, 1e9 * d / n) for e, d, n in rows
            if n and e is not None and math.isfinite(e) and math.isfinite(d)]
    if not kept:
        raise DataError(f'{path} tells of no fresh plan; record the topic ~/timing of the node '
                        'while it plans')
    return Charge(str(path), np.array(kept))


def measured(loop: PolicyLoop) -> Charge:
    """Return the model of this machine's plans, in a form to be given again."""
    table = warm_up(loop)
    most = max(table)
    plan, p99 = (round(1e6 * (table[most][key] or 0.0)) for key in ('p50', 'p99'))
    encode = min(plan, round(loop.latencies.p99_ns('encode') / 1e3))
    call = round(1e3 * (plan - encode) / most)
    p99_ns = max(1000 * p99, 1000 * encode + most * call)
    return modelled(f'call={call}ns,encode={encode}us,p99={p99_ns}ns', most)
