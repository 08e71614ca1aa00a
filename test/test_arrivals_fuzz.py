"""Whatever arrives in whatever order, exact caches change no bit of an action."""

import itertools

import pytest
from fakes import FakeEngine, tiny_spec

from diffusion_policy_rt.engines.load import load_engine
from diffusion_policy_rt.replay.arrivals import KINDS, check_arrivals, sequence


@pytest.mark.parametrize('cameras', [('front',), ('front', 'wrist')])
def test_random_sequences_of_arrivals_change_no_action(cameras):
    spec = tiny_spec(cameras=cameras)
    told = check_arrivals(spec, lambda: FakeEngine(spec), 200)
    assert told['differ'] == 0 and told['plans'] > 1000
    assert told['latent_hits'] > told['plans']


def test_nor_do_they_with_the_networks_tiles_and_conditions_of_a_bundle(exported):
    bundle = exported('keypoint_mlp', 'edm')[0]
    told = check_arrivals(bundle.spec, lambda: load_engine(bundle, 'onnxruntime'), 30)
    assert told['differ'] == 0 and told['condition.hits'] > told['plans']
    assert told['tiles.front.unchanged'] > 10


def test_sequences_hold_every_kind_and_repeat_themselves():
    drawn = [list(sequence(seed, 100)) for seed in range(50)]
    assert drawn == [list(sequence(seed, 100)) for seed in range(50)]
    seen = list(itertools.chain(*drawn))
    assert {arrival.kind for arrival in seen} == set(KINDS)
    assert any(len({stamp for stamp, _ in a.frames}) < len(a.frames) for a in seen)
