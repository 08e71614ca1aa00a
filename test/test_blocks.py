"""Branches kept between denoising steps: the schedule, its search, and what engines make of it."""

import dataclasses
import itertools

import numpy as np
import pytest
from fakes import MODELS, START, frame_at, state_at
from hypothesis import given
from hypothesis import strategies as st

from diffusion_policy_rt.engines.bundle import read_bundle
from diffusion_policy_rt.engines.load import load_engine
from diffusion_policy_rt.errors import BundleError, DataError, SpecError
from diffusion_policy_rt.runtime.blocks import BlockSchedule, names
from diffusion_policy_rt.runtime.clock import ManualClock
from diffusion_policy_rt.runtime.loop import PolicyLoop
from diffusion_policy_rt.runtime.settings import LoopSettings

torch = pytest.importorskip('torch', reason='the search looks into torch networks')
from diffusion_policy_rt.model.masked import MaskedStep  # noqa: E402
from diffusion_policy_rt.model.split import split  # noqa: E402
from diffusion_policy_rt.replay.fidelity import compare_chunks  # noqa: E402
from diffusion_policy_rt.train.block_search import candidates, smooth  # noqa: E402
from diffusion_policy_rt.train.blocks import (  # noqa: E402
    Rehearsal, best_updates, drift, find, similarity)
from diffusion_policy_rt.train.quantize.run import reexport  # noqa: E402

SIGMAS = (3.0, 2.0, 1.0, 0.5)


def value(similar, updates):
    """Return the sum of similarities between each call and the last one computed."""
    return sum(similar[max(u for u in updates if u <= call), call] for call in range(len(similar)))


@given(st.integers(2, 6), st.integers(0, 99), st.data())
def test_the_updates_are_the_best_of_all(calls, seed, data):
    similar = np.random.default_rng(seed).uniform(-1, 1, (calls, calls))
    budget = data.draw(st.integers(1, calls))
    found = best_updates(similar, budget)
    assert found[0] == 0 and len(found) == budget and sorted(set(found)) == found
    best = max(value(similar, (0, *more))
               for more in itertools.combinations(range(1, calls), budget - 1))
    assert value(similar, found) == pytest.approx(best)


def test_similar_branches_stand_and_those_that_turn_are_computed():
    still = np.ones((5, 4, 3))
    turning = np.zeros((5, 4, 3))
    turning[:, :2, 0], turning[:, 2:, 1] = 1, 1
    assert similarity(turning)[0].tolist() == [1, 1, 0, 0]
    made = find([still, turning], SIGMAS, 2)
    assert [call[1] for call in made.fresh] == list('1010')
    assert made.saving == 2.0


def test_what_drifts_most_is_computed_whenever_something_behind_it_is():
    drifting, turning = (np.zeros((5, 4, 2)) for _ in range(2))
    drifting[:, :, 0] = [9, 5, 2, 1]
    turning[:, :3, 0], turning[:, 3:, 1] = 1, 1
    alone, together = (find([drifting, turning], SIGMAS, 2, union) for union in (0, 1))
    assert '01' in alone.fresh and '01' not in together.fresh


@pytest.mark.parametrize('budget', [0, 5])
def test_a_budget_that_cannot_be_is_refused(budget):
    with pytest.raises(DataError, match='give 1 to 4'):
        find([np.ones((2, 4, 3))], SIGMAS, budget)


@pytest.mark.parametrize('fresh', [(), ('11', '0'), ('01', '11'), ('11', '1x'), ('11',)])
def test_a_schedule_that_is_none_is_refused(fresh):
    with pytest.raises(SpecError, match='dprt cache'):
        BlockSchedule((2.0, 1.0), fresh)


@pytest.mark.parametrize('data', [None, {}, {'sigmas': 'x', 'fresh': ['1']}, {'sigmas': [1.0]}])
def test_a_damaged_manifest_is_told(data):
    with pytest.raises(SpecError, match='schedule of blocks'):
        BlockSchedule.from_json(data)


@pytest.mark.parametrize('model', MODELS)
def test_a_step_of_which_all_is_kept_or_computed_alike_is_the_step(exported, model):
    policy = exported(model, 'edm')[1]
    parts, spec = split(policy.denoiser), policy.spec
    x, cond = torch.randn(1, 8, 2), torch.randn(1, spec.cond_dim)
    with torch.no_grad():
        given_ = (x, parts.level(torch.rand(1)), parts.observed(cond))
        whole, *made = MaskedStep(parts.step, '1' * parts.step.branches)(*given_)
        assert len(made) == parts.step.branches
        torch.testing.assert_close(whole, parts.step(*given_), rtol=0, atol=0)
        half = ''.join(bit for bit, _ in zip(itertools.cycle('01'), made))
        kept = [tensor for tensor, bit in zip(made, half) if bit == '0']
        again, *fresh = MaskedStep(parts.step, half)(*given_, *kept)
        torch.testing.assert_close(again, whole, rtol=0, atol=0)
        assert len(fresh) == half.count('1')
        zeros = [torch.zeros_like(tensor) for tensor in kept]
        assert not torch.equal(MaskedStep(parts.step, half)(*given_, *zeros)[0], whole)


FRESH = {'keypoint_mlp': ('11', '00', '10', '01'), 'transformer': ('1' * 6, '010010', '0' * 6,
                                                                  '101101')}


@pytest.fixture(scope='module', params=FRESH)
def blocked(request, exported, tmp_path_factory):
    """Return a bundle with a schedule of blocks for 4 steps."""
    source, _ = exported(request.param, 'edm')
    blocks = {'4': {'sigmas': list(source.spec.schedule(4).sigmas), 'fresh': list(
        FRESH[request.param])}}
    folder = tmp_path_factory.mktemp('blocks') / request.param
    reexport(source, folder, blocks=blocks)
    return read_bundle(folder)


def chunk(bundle, engine, blocks, steps=4, **changes):
    """Return the chunk of a plan and its loop."""
    spec = dataclasses.replace(bundle.spec, **changes)
    loop = PolicyLoop(spec, engine, LoopSettings(min_steps=steps, max_steps=steps), ManualClock())
    loop.keep(dataclasses.replace(loop.rules, blocks=blocks))
    for camera in spec.cameras:
        loop.observe_frame(frame_at(START, camera.name, shape=(45, 57)))
    loop.observe_state(START, START, state_at(START))
    return loop.plan(START).chunk.actions, loop


def test_engines_agree_on_plans_whose_blocks_are_kept(blocked):
    engines = [load_engine(blocked, name) for name in ('onnxruntime', 'torch')]
    ours, theirs = (chunk(blocked, engine, True)[0] for engine in engines)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    whole = chunk(blocked, engines[0], False)[0]
    assert np.abs(ours - whole).max() > 1e-4
    fresh = blocked.blocks['4']['fresh']
    counts = {'computed': ''.join(fresh).count('1'), 'kept': ''.join(fresh).count('0')}
    assert all(engine.blocks == counts for engine in engines)


def test_a_plan_never_finds_what_another_left_behind(blocked):
    engine = load_engine(blocked, 'onnxruntime')
    first, loop = chunk(blocked, engine, True)
    assert loop.cache_figures()['blocks.hit_ratio'] > 0.4
    loop.observe_frame(frame_at(START + 1, 'front', shape=(45, 57)))
    assert len(list(itertools.islice(_calls(loop), 2))) == 2  # a plan that is cut short
    np.testing.assert_array_equal(chunk(blocked, engine, True)[0], first)


def _calls(loop):
    observation = loop.observe(START)
    return loop.estimates(observation, loop._encode(observation), 4)


def test_blocks_are_kept_at_their_own_levels_alone(blocked):
    engine = load_engine(blocked, 'onnxruntime')
    for changes in ({'steps': 2}, {'schedules': {4: dataclasses.replace(
            blocked.spec.schedule(4), sigmas=(4.0, 3.0, 2.0, 1.0))}}):
        np.testing.assert_array_equal(chunk(blocked, engine, True, **changes)[0],
                                      chunk(blocked, engine, False, **changes)[0])
    assert not engine.blocks


def test_a_schedule_without_its_graphs_is_told_at_loading(blocked):
    fresh = blocked.blocks['4']['fresh'][1]
    less = dataclasses.replace(blocked, files={
        name: entry for name, entry in blocked.files.items() if f'_{fresh}.' not in name})
    with pytest.raises(BundleError, match=f'denoiser_step_{fresh}'):
        load_engine(less, 'onnxruntime')


def test_names_tell_what_goes_in_and_out():
    assert names('101') == (['kept_1'], ['made_0', 'made_2'])


@given(st.integers(0, 99), st.integers(1, 3))
def test_candidates_save_most_first_and_compute_what_drifts_from_one_call_on(seed, branches):
    given_ = list(np.random.default_rng(seed).standard_normal((branches, 5, 4, 3)))
    drifting = int(np.argmax(list(map(drift, given_))))
    found = candidates(given_, SIGMAS)
    savings = [one.saving for one in found]
    assert savings == sorted(savings, reverse=True) and savings[-1] > 1
    assert len(set(found)) == len(found)
    assert any([call[drifting] for call in one.fresh] == list('1011') for one in found)


def test_the_search_takes_the_greatest_saving_within_the_bound(exported):
    policy = exported('keypoint_mlp', 'edm')[1]
    conds = np.random.default_rng(0).standard_normal((6, policy.spec.cond_dim)).astype(np.float32)
    rehearsal = Rehearsal(policy, conds, 4, 0)
    real = policy.spec.action.denormalise
    whole, made = rehearsal.play(rehearsal.all_computed)
    jerks = {}
    for one in candidates(made, policy.spec.schedule(4).sigmas):
        found = compare_chunks(policy.spec, real(rehearsal.play(one.fresh)[0]), real(whole))
        jerks[one] = found['jerk_ratio'] if found['chunk_rmse'] <= 0.01 else np.inf
    for bound in sorted(jerks.values()):
        if np.isfinite(bound):
            first = next(one for one, jerk in jerks.items() if jerk <= bound)
            assert smooth(rehearsal, first.sigmas, bound, list) == first
    with pytest.raises(DataError, match='allow more'):
        smooth(rehearsal, first.sigmas, 0.0, list)
