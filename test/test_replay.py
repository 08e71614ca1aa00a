"""A bag through the node's loop: deterministic, latency charged, every figure from the trace."""

import io
import json
import threading

import bags
import numpy as np
import pytest
from fakes import ACTIONS, MS, START, STEP, FakeEngine, feed, make_loop, tiny_spec
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_policy_rt.errors import DataError, SpecError
from diffusion_policy_rt.replay.action_parts import split
from diffusion_policy_rt.replay.charge import Charge, modelled, recorded
from diffusion_policy_rt.replay.conditions import Conditions, Watchers
from diffusion_policy_rt.replay.drive import Replay
from diffusion_policy_rt.replay.faults import Arrival, Fault
from diffusion_policy_rt.replay.mapping import Inputs, map_topics, parse
from diffusion_policy_rt.replay.measures import figures
from diffusion_policy_rt.replay.recorded import Matcher
from diffusion_policy_rt.replay.streams import segments
from diffusion_policy_rt.replay.trail import Trail
from diffusion_policy_rt.ros.bag import Bag
from diffusion_policy_rt.runtime.caches import CacheRules
from diffusion_policy_rt.runtime.settings import LoopSettings
from diffusion_policy_rt.runtime.tiles import TileRule
from diffusion_policy_rt.runtime.trace import Rung, Tick
from diffusion_policy_rt.text import parse_seconds, parse_time

STREAMS = ('front', 'wrist', 'state')


def replay(path, latency='0', faults=(), seed=0, told=(), spec=None, watchers=None, gripper=(),
           **changes):
    """Return the lines of the trace and the outcome."""
    spec, file = spec or tiny_spec(), io.StringIO()
    chosen = LoopSettings(**changes)
    charge = latency if isinstance(latency, Charge) else modelled(latency, 4)
    with Bag(path) as bag:
        sources = map_topics(Inputs.of(spec), bag.topics, parse(told))
        parts = split(bag, sources, spec.action.names, gripper)
        how = Conditions(chosen, charge, seed, tuple(Fault.parse(f, STREAMS) for f in faults),
                         parts=parts)
        trail = Trail(file, Matcher(chosen.period_ns, [part.columns for part in parts.values()]))
        outcome = Replay(spec, FakeEngine(spec), sources, how, trail, watchers).run(bag)
    return [json.loads(line) for line in file.getvalue().splitlines()], outcome


@pytest.fixture(scope='module')
def plain(tmp_path_factory):
    return bags.write(tmp_path_factory.mktemp('bags') / 'plain', bags.messages())


@pytest.fixture(scope='module')
def both(tmp_path_factory):
    return bags.write(tmp_path_factory.mktemp('bags') / 'both', bags.messages(wrist=True))


# -- what is the same ----------------------------------------------------------------------------

def test_the_actions_are_those_of_the_loop_fed_by_hand(plain):
    lines, _ = replay(plain)
    first = next(line for line in lines if line['action'] is not None)['observed_ns']
    loop = make_loop()
    for stamp in range(START, first + 1, STEP):
        feed(loop, stamp)
    loop.plan(first)
    chunk = loop.current
    planned = [line for line in lines if line['observed_ns'] == first]
    assert len(planned) == 3  # n_action_steps
    for line in planned:
        np.testing.assert_array_equal(line['action'], chunk.rest(line['due_ns'])[0])


@pytest.mark.parametrize('latency', ['0', '12ms', '12ms,p99=60ms,encode=3ms', '150ms'])
def test_the_same_replay_twice_gives_the_same_trace_and_hash(both, latency):
    spec = tiny_spec(cameras=('front', 'wrist'))
    runs = [replay(both, latency, ['drop=0.1', 'reorder=0.2'], spec=spec) for _ in range(2)]
    assert runs[0][0] == runs[1][0] and runs[0][1].sha256 == runs[1][1].sha256
    assert runs[0][1].sha256 != replay(both, latency, ['drop=0.1', 'reorder=0.2'], seed=1,
                                       spec=spec)[1].sha256


def test_every_format_gives_the_same_actions(tmp_path):
    found = bags.messages(ticks=12)
    paths = [bags.write(tmp_path / 'mcap', found), bags.write(tmp_path / 'sql', found, 'sqlite3'),
             bags.write(tmp_path / 'file', found, 'sqlite3', 'FILE'),
             bags.write(tmp_path / 'msg', found, 'sqlite3', 'MESSAGE'),
             bags.write(tmp_path / 'chunk', found, 'mcap', 'STORAGE'),
             bags.write(tmp_path / 'one', bags.messages(12, bags.TYPES1), 'ros1')]
    paths += [next(paths[0].glob('*.mcap')), next(paths[1].glob('*.db3'))]
    assert len({replay(path)[1].sha256 for path in paths}) == 1


# -- latency -------------------------------------------------------------------------------------

def test_without_latency_no_plan_is_late_and_at_twice_the_deadline_every_one_is(plain):
    prompt, _ = replay(plain, '0', n_action_steps=1)
    late, _ = replay(plain, '100ms', n_action_steps=1)
    assert not any(line['late_plan'] or line['missed'] for line in prompt)
    asked = [line for line in late if line['network_calls']]
    told = figures(late, tiny_spec().action, 10.0)
    assert len(asked) > 10 and {line['rung'] for line in late} <= {'chunk', 'hold', 'stop'}
    assert told['late_plans'] == sum(told['late_plans_rungs'].values()) == len(asked)


def test_a_late_plan_serves_the_ticks_after_it_and_none_before(plain):
    lines, _ = replay(plain, '130ms')
    first = next(line for line in lines if line['action'] is not None)
    assert first['due_ns'] - first['observed_ns'] > 130 * MS and first['rung'] == 'chunk'


def test_a_plan_that_takes_no_time_is_made_without_changing_threads(plain, monkeypatch):
    denoise, threads = FakeEngine.denoise, set()

    def seen(self, *more):
        threads.add(threading.current_thread().name)
        return denoise(self, *more)

    monkeypatch.setattr(FakeEngine, 'denoise', seen)
    own, _ = threading.current_thread().name, replay(plain, '0')
    assert threads == {own}
    threads.clear()
    replay(plain, '1ms')
    assert threads == {'planner'}


@pytest.mark.parametrize('latency, plan_s', [('12ms', 0.012), ('call=2ms,encode=3ms', 0.011)])
def test_a_plan_costs_what_the_model_says(plain, latency, plan_s):
    costs = [line['plan_s'] for line in replay(plain, latency)[0] if line['plan_s'] is not None]
    assert costs[1:] and costs == pytest.approx([plan_s] * len(costs))


def test_fewer_steps_are_taken_where_each_call_costs(plain):
    lines, _ = replay(plain, 'call=15ms')
    assert {line['steps'] for line in lines if line['steps']} == {2}  # of 1, 2, 4 in 50 ms


def test_the_model_has_the_median_and_the_p99_that_it_was_given():
    charge = modelled('12ms,p99=20ms,encode=3ms', 4)
    drawn = np.array([charge.draw(0, k) for k in range(4000)]).sum(1)
    assert np.median(drawn) == pytest.approx(12 * MS, rel=0.03)
    assert np.percentile(drawn, 99) == pytest.approx(20 * MS, rel=0.06)


def test_a_recorded_trace_is_a_latency_model(plain, tmp_path):
    lines, _ = replay(plain, 'call=2ms,encode=3ms')
    trace = tmp_path / 'trace.jsonl'
    trace.write_text(''.join(json.dumps(line) + '\n' for line in lines))
    charge = recorded(trace)
    assert charge.draw(0, 5) == (3 * MS, 0, 2 * MS, 0)
    assert replay(plain, charge)[1].sha256 == replay(plain, 'call=2ms,encode=3ms')[1].sha256


@pytest.mark.parametrize('text', ['12', '12m', '12ms,p99=5ms', '12ms,encode=13ms', 'x=3ms',
                                  '5ms,call=1ms', ''])
def test_what_is_no_latency_is_refused(text):
    with pytest.raises(SpecError):
        modelled(text, 4)


def test_durations_have_units():
    assert [parse_time(t) for t in ('250us', '1.5ms', '.2s', '0')] == [250_000, 1_500_000,
                                                                      200_000_000, 0]
    assert parse_seconds('20ms') == parse_seconds('0.02') == 0.02


# -- figures -------------------------------------------------------------------------------------

def test_the_figures_can_be_recomputed_from_the_trace_by_numpy(plain):
    lines, _ = replay(plain, '12ms,p99=80ms')
    told = figures(lines, tiny_spec().action, 10.0)
    own = np.array([line['action'] or [np.nan] * 2 for line in lines])
    theirs = np.array([line['recorded'] or [np.nan] * 2 for line in lines])
    off = (own - theirs)[np.isfinite(own - theirs).all(1)]
    assert told['action_rmse'] == pytest.approx(np.sqrt((off**2).mean()))
    assert told['action_error']['y']['max'] == pytest.approx(np.abs(off[:, 0]).max())
    known = np.isfinite(own - theirs).all(1)  # one run of ticks without a hole
    jerks = [np.sqrt((np.diff(a[known], n=3, axis=0)**2).sum(1).mean()) for a in (own, theirs)]
    assert told['jerk_ratio'] == pytest.approx(jerks[0] / jerks[1])
    far = np.linalg.norm(np.diff(own, axis=0), axis=1)
    seam = np.array([a['observed_ns'] != b['observed_ns'] for a, b in zip(lines, lines[1:])])
    ratio = np.nanpercentile(far[seam], 99) / np.nanpercentile(far[~seam], 99)
    assert told['seam_jump_ratio'] == pytest.approx(ratio)
    assert told['nfe'] == sum(t['network_calls'] for t in lines) / sum(t['asked'] for t in lines)
    assert told['latency_s']['p99'] == pytest.approx(
        np.percentile([t['plan_s'] for t in lines if t['plan_s'] is not None], 99))


def test_recorded_actions_are_those_due_at_the_ticks(plain):
    lines, _ = replay(plain)
    matched = [line for line in lines if line['recorded'] is not None]
    assert len(matched) >= 25
    for line in matched:
        at = START + round((line['due_ns'] - START - 5 * MS) / STEP) * STEP
        np.testing.assert_allclose(line['recorded'], bags.operated(at))


def test_each_frame_is_encoded_once_and_the_cache_tells(plain):
    told = figures(replay(plain, n_action_steps=1)[0], tiny_spec().action, 10.0)
    assert told['cache']['misses'] <= 30 and told['cache']['hits'] >= 25
    assert told['nfe'] == 4


def test_actions_without_a_recording_have_no_error(tmp_path):
    path = bags.write(tmp_path / 'bag', bags.messages(without=(bags.ACTION,)))
    told = figures(replay(path)[0], tiny_spec().action, 10.0)
    assert told['action_rmse'] is None and told['jerk_ratio'] is None and told['ticks'] > 25


def test_a_bag_is_read_no_farther_than_it_is_replayed(tmp_path):
    path = bags.write(tmp_path / 'bag', bags.messages(ticks=200))
    ahead, read = [], [0]

    def message(ticks):
        read[0] += 1
        ahead.append(read[0] - 3 * ticks)

    replay(path, watchers=Watchers(message=message))
    assert read[0] == 600 and max(ahead) < 15


def cached_runs(tmp_path, bundle, steps, each):
    """Replay a bag of a camera that stands still and one that moves with each of these rules.

    Returns per run the outcome, its lines, and the engine.
    """
    pytest.importorskip('onnxruntime', reason='the caches are those of ONNX Runtime')
    from diffusion_policy_rt.engines.load import load_engine
    found = []
    for k in range(8):
        stamp = START + k * STEP
        for name, seen in (('front', START), ('wrist', stamp)):
            message = bags.image(bags.TYPES, stamp, name, (45, 57))
            message.data = bags.image_at(name, seen, (45, 57)).reshape(-1)
            found.append((f'/camera/{name}/image_raw', bags.IMAGE, stamp + MS, message))
        found.append((bags.STATE, bags.JOINTS, stamp + MS, bags.joints(bags.TYPES, stamp)))
    path, runs = bags.write(tmp_path / 'bag', found), []
    for rules in each:
        file, engine = io.StringIO(), load_engine(bundle, 'onnxruntime')
        chosen = LoopSettings(min_steps=steps, max_steps=steps, n_action_steps=1)
        how = Conditions(chosen, modelled('4ms,encode=3ms', 1), caches=rules)
        with Bag(path) as bag:
            sources = map_topics(Inputs.of(bundle.spec), bag.topics, {})
            outcome = Replay(bundle.spec, engine, sources, how,
                             Trail(file, Matcher(chosen.period_ns, []))).run(bag)
        runs.append((outcome, [json.loads(line) for line in file.getvalue().splitlines()], engine))
    return runs


def test_a_replay_encodes_as_the_node_does_and_pays_for_what_it_encodes(tmp_path, exported):
    bundle = exported('keypoint_mlp', 'edm')[0]
    whole, tiled = (
        (outcome.sha256, sum(line['encoded'] for line in lines),
         {line['encode_s'] for line in lines if line['asked']})
        for outcome, lines, _ in cached_runs(tmp_path, bundle, 1, [
            CacheRules(tiles={c.name: TileRule(tiles) for c in bundle.spec.cameras})
            for tiles in (False, True)]))
    assert whole[0] == tiled[0] and whole[1] - tiled[1] == 7
    assert whole[2] == tiled[2] == {0.003}


def test_a_replay_keeps_conditions_and_blocks_as_it_is_told_and_pays_for_each_call(
        tmp_path, exported):
    pytest.importorskip('torch', reason='the step graphs are exported by torch')
    from diffusion_policy_rt.train.quantize.run import reexport
    source, off = exported('keypoint_mlp', 'edm')[0], TileRule()
    blocks = {'4': {'sigmas': list(source.spec.schedule(4).sigmas),
                    'fresh': ['11', '00', '10', '01']}}
    bundle = reexport(source, tmp_path / 'blocked', blocks=blocks)
    tiles = {c.name: off for c in bundle.spec.cameras}
    plain, kept, none = cached_runs(tmp_path, bundle, 4, [
        CacheRules(tiles=tiles), CacheRules(tiles=tiles, blocks=True),
        CacheRules(tiles=tiles, condition=False)])
    plans = sum(line['asked'] for line in plain[1])
    assert plain[0].sha256 == none[0].sha256 != kept[0].sha256
    assert plain[2].conditioned.hits == kept[2].conditioned.hits == 3 * plans
    assert none[2].conditioned.hits == 0
    assert kept[2].blocks == {'computed': 4 * plans, 'kept': 4 * plans} and not plain[2].blocks
    calls, times = (tuple([line[key] for line in run[1]] for run in (plain, kept))
                    for key in ('network_calls', 'denoise_s'))
    assert calls[0] == calls[1] and times[0] == times[1] and sum(calls[0]) == 4 * plans


# -- faults --------------------------------------------------------------------------------------

def test_faults_of_no_size_change_nothing(plain):
    nothing = ['drop=0', 'delay=0', 'reorder=0', 'freeze=0s+0s', 'skew=0']
    assert replay(plain, faults=nothing)[1].sha256 == replay(plain)[1].sha256


def test_dropped_streams_are_missed(plain):
    lines, outcome = replay(plain, faults=['drop=1@front'])
    assert {line['rung'] for line in lines} == {'stop'}
    assert 'no image from camera front yet' in outcome.reasons


def test_delay_ages_what_the_policy_sees(plain):
    ages = [[t['stamp_to_publish_s'] for t in replay(plain, faults=f)[0] if t['rung'] == 'fresh']
            for f in ([], ['delay=40ms'])]
    assert ages[0][1:] == pytest.approx([0.003] * len(ages[0][1:]))
    assert ages[1][1:] == pytest.approx([0.043] * len(ages[1][1:]))


def test_skew_of_one_camera_is_the_skew_that_is_told(both):
    spec = tiny_spec(cameras=('front', 'wrist'))
    lines, _ = replay(both, faults=['skew=20ms@wrist'], spec=spec)
    assert {round(t['camera_skew_s'], 6) for t in lines if t['camera_skew_s'] is not None} == {.02}


def test_a_frozen_camera_shows_the_same_picture_under_new_stamps(plain):
    seen = []
    replay(plain, faults=['freeze=1s+1s@front'], watchers=Watchers(frame=seen.append))
    pictures = [frame.decode().tobytes() for frame in seen]
    assert len({f.stamp_ns for f in seen}) == 30 and len(set(pictures)) == 21


def test_noise_changes_pixels_and_states_but_no_stamp(both):
    spec, seen = tiny_spec(cameras=('front', 'wrist')), []
    lines, _ = replay(both, faults=['noise=4'], spec=spec, watchers=Watchers(frame=seen.append))
    clean, _ = replay(both, spec=spec)
    assert [t['observed_ns'] for t in lines] == [t['observed_ns'] for t in clean]
    for frame in seen[:4]:
        off = frame.decode().astype(float) - bags.image_at(frame.camera, frame.stamp_ns)
        assert 2 < off.std() < 5


def test_reordered_messages_all_arrive(plain):
    stamps = []
    replay(plain, faults=['reorder=0.3@front'],
           watchers=Watchers(frame=lambda f: stamps.append(f.stamp_ns)))
    assert len(stamps) == 30 and stamps != sorted(stamps)


@pytest.mark.parametrize('text', ['drop', 'drop=2', 'drop=x', 'delay=3', 'melt=1', 'drop=.1@left',
                                  'freeze=1s', 'noise=-1'])
def test_what_is_no_fault_is_refused(text):
    with pytest.raises(SpecError):
        Fault.parse(text, STREAMS)


# -- parts and times -----------------------------------------------------------------------------

@settings(max_examples=30)
@given(st.lists(st.integers(0, 30), max_size=30))
def test_parts_hold_everything_once_and_split_at_every_silence(steps):
    instants = np.cumsum([0, *steps]).tolist()
    parts = [[a.at_ns for a in part]
             for part in segments((Arrival(t, 'front', None) for t in instants), 20)]
    assert [t for part in parts for t in part] == instants
    assert len(parts) == 1 + sum(step > 20 for step in steps)


def test_a_long_silence_begins_the_policy_anew(tmp_path):
    found = bags.messages(10) + bags.messages(10, start=START + 3600 * 10 * STEP)
    lines, outcome = replay(bags.write(tmp_path / 'bag', found))
    assert len(lines) < 25 and outcome.restarts == 1
    assert any('began anew' in note for note in outcome.notes)
    assert lines[-1]['rung'] != 'stop'


def test_what_was_sent_together_arrives_together(tmp_path):
    found = bags.messages(12)
    swapped = [(t, k, at + (MS // 2 if t == bags.STATE else 0), m) for t, k, at, m in found]
    swapped.sort(key=lambda m: m[2])
    runs = [replay(bags.write(tmp_path / name, sent), n_action_steps=1)[0]
            for name, sent in (('a', found), ('b', swapped))]
    assert [t['action'] for t in runs[0]] == [t['action'] for t in runs[1]]


# -- mapping -------------------------------------------------------------------------------------

def test_topics_of_other_names_are_mapped(tmp_path, plain):
    names = {bags.FRONT: '/cam/left', bags.STATE: '/arm/state', bags.ACTION: '/leader'}
    found = [(names[t], k, at, m) for t, k, at, m in bags.messages()]
    path = bags.write(tmp_path / 'bag', found)
    lines, outcome = replay(path, told=['camera.front=/cam/left', 'action=/leader'])
    assert outcome.sha256 == replay(plain)[1].sha256
    assert any(line['recorded'] for line in lines)
    alone, _ = replay(path)  # the only ones of their types
    assert [t['action'] for t in alone] == [t['action'] for t in lines][:len(alone)]


@pytest.mark.parametrize('told, why', [
    (['camera.left=/x'], 'camera.front'), (['camera.front=/x'], 'no such topic'),
    ([f'camera.front={bags.STATE}'], 'images are of'), ([f'state={bags.FRONT}'], 'states are of'),
    ([f'action={bags.FRONT}'], 'actions are of'), (['front'], 'NAME=TOPIC'),
    (['state=const:1'], '3 numbers')])
def test_a_mapping_that_does_not_fit_is_refused_by_name(plain, told, why):
    with pytest.raises(DataError, match=why):
        replay(plain, told=told)


def test_a_state_that_never_changes_can_be_told(tmp_path):
    path = bags.write(tmp_path / 'bag', bags.messages(without=(bags.STATE,)))
    with pytest.raises(DataError, match='state=const:0,1,0.5'):
        replay(path)
    lines, _ = replay(path, told=['state=const:0,1,0.5'])
    assert lines[-1]['action'] is not None and len(lines[-1]['action']) == len(ACTIONS)


# -- what a recording tells of its run -----------------------------------------------------------

def test_a_message_on_the_reset_topic_makes_the_policy_forget(tmp_path):
    told = bags.make(bags.TYPES, 'std_msgs/msg/String', data='over')
    at = START + 15 * STEP - 20 * MS
    found = bags.messages(30) + [('/pusht/episode', 'std_msgs/msg/String', at, told)]
    found.sort(key=lambda m: m[2])
    lines, _ = replay(bags.write(tmp_path / 'bag', found))
    after = [t for t in lines if t['due_ns'] > at]
    assert after[0]['observed_ns'] == START + 15 * STEP and after[0]['rung'] == 'fresh'
    ignored, _ = replay(tmp_path / 'bag', told=['reset='])
    assert [t['rung'] for t in ignored] != [t['rung'] for t in lines]


def test_the_ticks_begin_when_those_of_the_recorded_node_did(tmp_path):
    layout = bags.make(bags.TYPES, 'std_msgs/msg/MultiArrayLayout', dim=[], data_offset=0)
    tick = Tick(0, *[float('nan')] * 4, 0.045, 0, Rung.STOP, 0, 0.0, 0.0, False)
    kind = 'std_msgs/msg/Float64MultiArray'
    timing = bags.make(bags.TYPES, kind, layout=layout, data=np.array(tick.values()))
    at = START + 7 * STEP + 30 * MS
    found = sorted([*bags.messages(30), ('/policy/timing', kind, at, timing)], key=lambda m: m[2])
    lines, _ = replay(bags.write(tmp_path / 'bag', found))
    assert lines[0]['due_ns'] == at - 5 * MS  # 5 of 50 ms were spent when it was published
    assert lines[0]['observed_ns'] == START + 7 * STEP
