"""All steps in one graph give the chunk of one call per step."""

import dataclasses

import numpy as np
import pytest
from fakes import MODELS

pytest.importorskip('onnx', reason='graphs are joined by onnx')

from diffusion_policy_rt.replay.bench_fused import bench_fused, pair  # noqa: E402
from diffusion_policy_rt.spec import Schedule  # noqa: E402

KINDS = ('ddim', 'ddim_unclipped', 'ancestral', 'renoise', 'point')


@pytest.mark.parametrize('model', MODELS)
def test_the_fused_graph_gives_the_chunk_of_single_calls(exported, model):
    apart, fused = pair(exported(model, 'edm')[0], 4, 1)
    np.testing.assert_allclose(fused()[0], apart(), rtol=0, atol=1e-4)


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('clip', [None, 0.3])
def test_whatever_the_sampler(exported, kind, clip):
    bundle, _ = exported('keypoint_mlp', 'edm')
    schedules = {3: Schedule(kind, (2.5, 1.0, 0.4), 0.7 if kind == 'renoise' else 1.0)}
    changed = dataclasses.replace(bundle, spec=dataclasses.replace(
        bundle.spec, schedules=schedules, clip=clip))
    apart, fused = pair(changed, 3, 1)
    np.testing.assert_allclose(fused()[0], apart(), rtol=0, atol=1e-4)


def test_rows_hold_both_forms(exported):
    rows = bench_fused([str(exported('keypoint_mlp', 'edm')[0].folder)], [1, 2], [1], 3, iter)
    assert [row['steps'] for row in rows] == [1, 2]
    assert all(row['difference'] < 1e-4 and row['ratio'] > 0 for row in rows)
