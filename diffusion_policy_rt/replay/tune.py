"""The cheapest stack that meets a deadline: a ladder, climbed until a rung holds.

    as it is  >  quantized  >  + caches  >  distilled, most steps  >  ..  >  distilled, one step
              >  distilled and quantized, most steps  >  ..  >  distilled and quantized, one step
"""

from __future__ import annotations

import dataclasses
import math
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_policy_rt.engines.bundle import Bundle, read_bundle, record_quality
from diffusion_policy_rt.engines.load import load_engine
from diffusion_policy_rt.errors import DataError, SpecError
from diffusion_policy_rt.replay.kept import Kept
from diffusion_policy_rt.replay.page import machine
from diffusion_policy_rt.runtime.asking import PUBLISH_MARGIN_NS
from diffusion_policy_rt.runtime.clock import SteadyClock
from diffusion_policy_rt.runtime.frame import Frame
from diffusion_policy_rt.runtime.loop import Plan, PolicyLoop
from diffusion_policy_rt.runtime.settings import LoopSettings

MADE = QUANTIZED, STUDENT = 'quantized', 'student'
"""The folders of bundles that are made on the way."""
BOTH = 'distilled and quantized'
"""The last stages of a ladder."""
COLD = 5
"""Plans that are made before the first is measured."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """One rung of the ladder."""

    label: str
    policy: str
    steps: int
    cached: bool
    """Whether latents are kept, so that one frame per camera is encoded per plan, not `n_obs`."""

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Stage:
        """Return the stage of a row of the ladder."""
        return cls(row['stage'], row['policy'], row['steps'], row['cached'])


@dataclasses.dataclass(frozen=True)
class Aim:
    """What a stack has to hold."""

    deadline_s: float
    margin: float = 0.1
    """Share of the measured p99 that is added to it."""
    quality_drop: float = 0.01
    higher_is_better: bool = True

    @property
    def p99_most_s(self) -> float:
        """The longest p99 that leaves in time, with margin and what publishing costs [s]."""
        return (self.deadline_s - PUBLISH_MARGIN_NS / 1e9) / (1 + self.margin)

    def meets_time(self, p99_s: float) -> bool:
        """Whether a plan of this p99 leaves in time."""
        return p99_s <= self.p99_most_s

    def meets_quality(self, quality: float, reference: float) -> bool:
        """Whether the quality has dropped by no more than is allowed.

        A score may be lower by `quality_drop`; an error higher by that share of itself.
        """
        if self.higher_is_better:
            return quality >= reference - self.quality_drop
        return quality <= reference * (1 + self.quality_drop)


def ladder(policy: str, steps: int, quantized: Iterable[str], distilled: Iterable[str],
           again: Callable[[str], Iterable[str]] = lambda student: ()) -> Iterator[Stage]:
    """Yield the stages from the policy as it is to the fewest steps of its last student.

    Bundles are asked for when it is their turn, so those that are not needed need not be made;
    `again` gives the quantized bundles of a student.
    """
    spec = read_bundle(policy).spec
    count = steps or max(spec.steps)
    spec.schedule(count)
    yield Stage('as it is', policy, count, False)
    last = policy
    for bundle in quantized:
        served = read_bundle(bundle).spec.steps
        if count not in served:
            raise SpecError(f'{bundle} serves {list(served)} steps, not the {count} of {policy}; '
                            'give --steps that both serve')
        yield Stage(named('quantized', bundle), bundle, count, False)
        last = bundle
    yield Stage('+ caches', last, count, True)
    for student in distilled:
        yield from fewer_steps(student, count, named('distilled', student))
        for small in again(student):
            yield from fewer_steps(small, count, named(BOTH, small))


def fewer_steps(bundle: str, count: int, label: str) -> Iterator[Stage]:
    """Yield the step counts of a bundle below `count`, falling."""
    for fewer in sorted(read_bundle(bundle).spec.steps, reverse=True):
        if fewer < count:
            yield Stage(f'{label}, {fewer} steps', bundle, fewer, True)


def named(what: str, bundle: str) -> str:
    """Return what a bundle is, with its name, that of its run for one that is called `bundle`.

    Those that `dprt tune` makes itself have no names of their own.
    """
    path = Path(bundle)
    name = path.parent.name if path.name == 'bundle' else path.name
    return what if name in MADE else f'{what} ({name})'


class Tuner:
    """Measures stages; what stands in `folder` is not measured again."""

    def __init__(self, folder: Path, engine: str, threads: int, repeats: int,
                 quality: Callable[[Stage], float], skip_slow: bool = False) -> None:
        """With `skip_slow` the quality of what is too slow is not measured, but for the first."""
        self._kept, self._engine, self._threads = Kept(folder), engine, threads
        self._repeats, self._quality, self._skip_slow = repeats, quality, skip_slow

    def climb(self, stages: Iterator[Stage], aim: Aim) -> list[dict[str, Any]]:
        """Return the rows up to the first stage that meets the aim; all where none does."""
        rows: list[dict[str, Any]] = []
        for stage in stages:
            row = self._row(stage)
            row['meets_time'] = aim.meets_time(row['p99_s'])
            skipped = self._skip_slow and rows and not row['meets_time']
            worth = row['quality'] = None if skipped else self._quality(stage)
            row['meets_quality'] = None if worth is None else aim.meets_quality(
                worth, rows[0]['quality'] if rows else worth)
            row['meets'] = row['meets_time'] and row['meets_quality']
            rows.append(row)
            if row['meets']:
                break
        return rows

    def _row(self, stage: Stage) -> dict[str, Any]:
        bundle = read_bundle(stage.policy)
        times = self.times(stage, bundle)
        return {'stage': stage.label, 'policy': str(bundle.folder), 'steps': stage.steps,
                'cached': stage.cached, 'p50_s': float(np.percentile(times, 50)),
                'p99_s': float(np.percentile(times, 99)),
                'size_bytes': sum(entry['bytes'] for entry in bundle.files.values())}

    def times(self, stage: Stage, bundle: Bundle) -> list[float]:
        """Return the durations of plans of a stage on this machine [s]."""
        key = {'files': {name: entry['sha256'] for name, entry in bundle.files.items()},
               'engine': self._engine, 'threads': self._threads, 'steps': stage.steps,
               'cached': stage.cached, 'repeats': self._repeats, 'machine': machine()}
        found = self._kept.read('times', key)
        if found is None:
            engine = load_engine(bundle, self._engine, self._threads)
            settings = LoopSettings(
                control_rate=bundle.spec.rate, deadline=0.5 / bundle.spec.rate,
                min_steps=stage.steps, max_steps=stage.steps)
            loop = PolicyLoop(bundle.spec, engine, settings, SteadyClock())
            found = plan_times(loop, self._repeats, stage.cached)
            self._kept.write('times', key, found)
        return found


def plan_times(loop: PolicyLoop, repeats: int, cached: bool) -> list[float]:
    """Return how long plans take from one new frame per camera on [s]."""
    spec, rng, times = loop.spec, np.random.default_rng(0), []
    pictures = {c.name: rng.integers(0, 256, (2, c.height, c.width, 3), np.uint8)
                for c in spec.cameras}
    for k in range(COLD + repeats):
        now = k * spec.step_ns
        for name, rgb in pictures.items():
            loop.observe_frame(Frame.of(name, now, rgb[k % 2]))
        loop.observe_state(now, now, spec.state.example())
        if not cached:
            loop.cache.clear()
        plan = loop.plan(now)
        if not isinstance(plan, Plan):
            raise DataError(f'{spec.name} does not plan on an example: {plan.reason}')
        times.append(plan.plan_ns / 1e9)
    return times[COLD:]


def advice(rows: Sequence[dict[str, Any]], aim: Aim) -> str:
    """Return in one sentence which stack was chosen, or what to do where none holds."""
    ms = 1e3 * aim.deadline_s
    if rows[-1]['meets']:
        row = rows[-1]
        return (f'{row["stage"]}: a plan takes {1e3 * row["p99_s"]:.3g} ms (p99), within the '
                f'deadline of {ms:g} ms.')
    fastest = min(rows, key=lambda row: row['p99_s'])
    if any(row['meets_time'] for row in rows):
        return (f'What meets {ms:g} ms is too poor; allow a larger --quality-drop, or distil '
                'longer.')
    needed = 1e3 * (fastest['p99_s'] * (1 + aim.margin) + PUBLISH_MARGIN_NS / 1e9)
    made = any(row['stage'].startswith(BOTH) for row in rows)
    return (f'Nothing meets {ms:g} ms: the fastest, {fastest["stage"]}, takes '
            f'{1e3 * fastest["p99_s"]:.3g} ms (p99); give '
            f'{"" if made else "--data to have it quantized and distilled, "}'
            f'a smaller policy, or a deadline of {math.ceil(needed)} ms.')


def deliver(row: dict[str, Any], folder: Path, aim: Aim) -> Bundle:
    """Copy the chosen bundle to `folder`, with what was measured of it; whole or not at all."""
    if folder.exists():
        read_bundle(folder)  # what is no bundle is not replaced
    partial = Path(tempfile.mkdtemp(prefix=f'.{folder.name}.', dir=folder.parent))
    try:
        shutil.copytree(row['policy'], partial, dirs_exist_ok=True)
        record_quality(read_bundle(partial), {'tuned': {
            key: row[key] for key in ('stage', 'steps', 'p50_s', 'p99_s', 'quality')
        } | {'deadline_s': aim.deadline_s, 'machine': machine()}})
        if folder.exists():
            shutil.rmtree(folder)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return read_bundle(folder)
