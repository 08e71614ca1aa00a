"""One bag with one or several policies: traces, figures, output bags and one page."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from diffusion_policy_rt.engines.bundle import Bundle, read_bundle
from diffusion_policy_rt.engines.caching import Caching
from diffusion_policy_rt.engines.load import load_engine
from diffusion_policy_rt.errors import DataError, SpecError
from diffusion_policy_rt.files import whole_file
from diffusion_policy_rt.replay.action_parts import split
from diffusion_policy_rt.replay.again import recorded_parameters, run_again
from diffusion_policy_rt.replay.charge import (
    AS_RECORDED, Charge, measured, modelled, recorded)
from diffusion_policy_rt.replay.conditions import Conditions, Outcome, Watchers
from diffusion_policy_rt.replay.drive import Replay
from diffusion_policy_rt.replay.faults import Fault
from diffusion_policy_rt.replay.mapping import Inputs, Sources, map_topics, parse
from diffusion_policy_rt.replay.measures import figures
from diffusion_policy_rt.replay.recorded import Matcher
from diffusion_policy_rt.replay.thumbs import Thumbs
from diffusion_policy_rt.replay.trail import Trail
from diffusion_policy_rt.ros.bag import Bag
from diffusion_policy_rt.ros.param_values import action_limits, caches_of, stream_rules
from diffusion_policy_rt.ros.policy_params import defaults
from diffusion_policy_rt.runtime.clock import SteadyClock
from diffusion_policy_rt.runtime.loop import PolicyLoop
from diffusion_policy_rt.runtime.ports import Engine
from diffusion_policy_rt.runtime.settings import LoopSettings
from diffusion_policy_rt.spec import PolicySpec

RATE_DEADLINE = 0.5
"""Share of the period that is the deadline where none is given, but at most the node's."""


@dataclass(frozen=True)
class Wish:
    """What was asked for, the same for all policies."""

    bag: Path
    out: Path
    latency: str = ''
    """Empty: as recorded, where the bag holds a run of this policy; else nothing."""
    steps: int = 0
    threads: int = 1
    seed: int = 0
    rate: float = 0.0
    """Ticks per second [Hz]; 0 takes the policy's."""
    deadline: float = 0.0
    """[s]; 0 takes the node's default, at most half a period."""
    maps: Sequence[str] = ()
    faults: Sequence[str] = ()
    more: dict[str, float | bool] = field(default_factory=dict)
    """Other parameters of the node by name, of those that are numbers or switches."""
    action_type: str = 'joint_trajectory'
    write_bag: bool = True
    gripper: Sequence[str] = ()
    """Actions on the gripper's own topic, where the messages do not name them."""


@dataclass(frozen=True)
class Replayed:
    """One policy's replay: its figures, and where its trace lies."""

    result: dict[str, Any]
    trace: Path
    thumbs: Thumbs
    spec: PolicySpec


def settings_for(spec: PolicySpec, wish: Wish) -> LoopSettings:
    """Return the loop's settings; SpecError with the first contradiction."""
    rate = wish.rate or spec.rate
    deadline = wish.deadline or min(LoopSettings.deadline, RATE_DEADLINE / rate)
    steps = {'min_steps': wish.steps, 'max_steps': wish.steps} if wish.steps else {}
    given = parameters(spec, wish)
    values = {**given, 'control_rate': rate, 'deadline': deadline, **steps,
              **{name: given[name] for name in wish.more}}
    settings = LoopSettings(**{f.name: values[f.name] for f in dataclasses.fields(LoopSettings)})
    settings.check(spec)
    return settings


def parameters(spec: PolicySpec, wish: Wish,
               told: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the node's parameters: their defaults, a recording's, and what `--set` told."""
    values = defaults(spec)
    values |= {name: value for name, value in (told or {}).items() if name in values}
    plain = sorted(n for n, v in values.items() if isinstance(v, (int, float)))
    unknown = sorted(set(wish.more) - set(plain))
    if unknown:
        raise SpecError(f'--set {unknown[0]}: the settings are {", ".join(plain)}')
    for name, value in wish.more.items():
        if isinstance(value, bool) != isinstance(values[name], bool):
            kind = 'true or false' if isinstance(values[name], bool) else 'a number'
            raise SpecError(f'--set {name}: it is {kind}')
    return {**values, **{name: type(values[name])(v) for name, v in wish.more.items()}}


def recorded_run(bag: Bag, sources: Sources, bundle: Bundle, wish: Wish) -> LoopSettings | None:
    """Return the settings of the bag's own run if it is to be done again as it was.

    That is so where it can be and nothing else was asked for; DataError where it cannot be, but
    was asked for.
    """
    if wish.latency not in ('', AS_RECORDED):
        return None
    try:
        settings = run_again(bag, sources, bundle.digest, wish.seed)
        _check_same(settings, wish)
    except DataError as error:
        if wish.latency:
            raise DataError(f'--latency {AS_RECORDED}: {error}') from error
        return None
    return settings


def _check_same(settings: LoopSettings, wish: Wish) -> None:
    """DataError where something was asked for that was otherwise in the recording."""
    steps = {'min_steps': wish.steps, 'max_steps': wish.steps} if wish.steps else {}
    asked = {**wish.more, **steps, **{name: value for name, value in (
        ('control_rate', wish.rate), ('deadline', wish.deadline)) if value}}
    for name, was in dataclasses.asdict(settings).items():
        if asked.get(name, was) != was:
            raise DataError(f'recorded with {name} {was:g}, not {asked[name]:g}')
    if wish.faults:
        raise DataError('recorded without --fault')


def make_charge(text: str, spec: PolicySpec, settings: LoopSettings, engine: Engine) -> Charge:
    """Return the latency model that `--latency` names."""
    if text == AS_RECORDED:
        return replace(modelled('0', 1), text=text)
    if text == 'measured':
        return measured(PolicyLoop(spec, engine, settings, SteadyClock()))
    if text and Path(text).exists():
        return recorded(Path(text))
    return modelled(text or '0', max(settings.allowed_steps(spec)))


def replay_one(policy: str, engine_name: str, label: str, wish: Wish) -> Replayed:
    """Replay the bag with one policy; the trace and the output bag lie in `wish.out`."""
    bundle = read_bundle(policy)
    spec = bundle.spec
    with Bag(wish.bag) as bag:
        if not bag.topics or not bag.damage and not sum(t.messages for t in bag.topics):
            raise DataError(f'{wish.bag} holds no messages')
        sources = map_topics(Inputs.of(spec), bag.topics, parse(wish.maps))
        again = recorded_run(bag, sources, bundle, wish)
        settings = again or settings_for(spec, wish)
        latency = AS_RECORDED if again else wish.latency
        engine = load_engine(bundle, engine_name, wish.threads)
        values = parameters(spec, wish, recorded_parameters(bag, sources) if again else {})
        streams = [*sources.cameras, 'state']
        how = Conditions(settings, make_charge(latency, spec, settings, engine), wish.seed,
                         tuple(Fault.parse(text, streams) for text in wish.faults),
                         wish.action_type == 'twist_stamped',
                         action_limits(values, spec.action.names), stream_rules(values, spec),
                         caches_of(values, spec), bundle.digest,
                         split(bag, sources, spec.action.names, wish.gripper), again is not None)
        return _write(bundle, bag, sources, engine, how, label, wish)


def _write(bundle: Bundle, bag: Bag, sources: Sources, engine: Engine, how: Conditions,
           label: str, wish: Wish) -> Replayed:
    spec, thumbs = bundle.spec, Thumbs()
    trace, folder = wish.out / f'trace{label}.jsonl', wish.out / f'bag{label}'
    wish.out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        file = stack.enter_context(stack.enter_context(whole_file(trace)).open('w'))
        trail = Trail(file, Matcher(how.settings.period_ns,
                                    [part.columns for part in how.parts.values()]))
        tick = stack.enter_context(_output(wish, bundle, folder)) if wish.write_bag else None
        watchers = Watchers(_progress(stack, bag, sources), thumbs.note)
        if tick is not None:
            watchers.tick, watchers.event = tick.write, tick.event
        replay = Replay(spec, engine, sources, how, trail, watchers)
        outcome = replay.run(bag)
        if how.caches is not None:
            outcome.notes += Caching.of(bundle, engine, replay.loop.tiling.exact).in_vain(
                how.caches)
    lines = [json.loads(line) for line in trace.read_text().splitlines()]
    result = {
        'label': label.lstrip('_') or spec.name, 'policy': str(bundle.folder),
        'policy_sha256': bundle.digest, 'engine': engine.name, 'dtypes': dict(engine.dtypes),
        **figures(lines, spec.action, how.settings.control_rate),
        'kept': kept(replay.loop), **told(outcome), **conditions(wish, sources, how),
        'trace': str(trace),
        'bag': str(folder) if wish.write_bag else None}
    return Replayed(result, trace, thumbs, spec)


def _output(wish: Wish, bundle: Bundle, folder: Path) -> Any:
    from diffusion_policy_rt.replay.published import PublishedBag
    return PublishedBag(folder, bundle.spec, wish.action_type, bundle.digest)


def _progress(stack: ExitStack, bag: Bag, sources: Sources) -> Callable[[int], None]:
    total = sum(topic.messages for topic in bag.topics if topic.name in sources.topics)
    bar = stack.enter_context(tqdm(total=total or None, unit='message', desc='replaying'))
    begun = time.monotonic()

    def note(ticks: int) -> None:
        if bar.update():  # only when the bar is drawn
            rate = ticks / max(time.monotonic() - begun, 1e-3)
            bar.set_postfix(ticks=ticks, ticks_per_s=round(rate), refresh=False)

    return note


def kept(loop: PolicyLoop) -> dict[str, Any]:
    """Return what the caches tell, None for shares of nothing."""
    return {name: None if value != value else value
            for name, value in loop.cache_figures().items()}


def told(outcome: Outcome) -> dict[str, Any]:
    """Return what the outcome adds to a result."""
    return {'sha256': outcome.sha256, 'messages': outcome.counts, 'dropped': outcome.dropped,
            'notes': outcome.notes, 'reasons': dict(outcome.reasons)}


def conditions(wish: Wish, sources: Sources, how: Conditions) -> dict[str, Any]:
    """Return what was asked for, so that the result can be had again."""
    topics = {**{f'camera.{name}': topic for name, (topic, _) in sources.cameras.items()},
              'state': sources.state or f'const:{",".join(map(str, sources.constant))}',
              'action': sources.action, 'gripper_action': sources.gripper,
              'reset': sources.reset, 'events': sources.events}
    return {'input': str(wish.bag), 'topics': topics, 'latency': how.charge.text,
            'seed': how.seed, 'faults': list(wish.faults), 'rate_hz': how.settings.control_rate,
            'deadline_s': how.settings.deadline, 'settings': dataclasses.asdict(how.settings)}
