"""`dprt bench --what cache`: rows whose hits and errors are those of the caches."""

import numpy as np
import pytest

from diffusion_policy_rt.replay.bench_cache import CACHES, SCENES, bench_cache, scene


@pytest.fixture(scope='module')
def rows(bundle):
    """Return the rows by scene and cache."""
    made = bench_cache([str(bundle.folder)], ['onnxruntime'], 1, 1, 20, lambda turns: turns)
    return {(row['scene'], row['cache']): row for row in made}


def test_every_cache_is_measured_on_every_scene(rows):
    assert set(rows) == {(kind, cache) for kind in SCENES for cache in CACHES}
    assert all(rows[kind, 'none']['plan_ratio'] == 1 for kind in SCENES)


@pytest.mark.parametrize('cache', ['latents', 'tiles'])
def test_exact_caches_change_no_action(rows, cache):
    assert all(rows[kind, cache]['action_rmse'] == 0 for kind in SCENES)


def test_hits_are_those_of_the_scene(rows):
    assert rows['still', 'tiles']['hit_ratio'] > 0.9
    assert rows['noise', 'tiles']['hit_ratio'] == 0
    # noise of up to 3 makes differences of up to 6
    assert rows['noise', 'tiles, threshold 6']['hit_ratio'] > 0.8
    assert rows['noise', 'tiles, threshold 6']['action_rmse'] < 0.05
    assert rows['moved camera', 'tiles']['hit_ratio'] == 0


def test_scenes_are_what_they_say():
    for kind in SCENES:
        images = np.asarray(scene(kind, 64, 64)).astype(int)
        assert images.shape == (16, 64, 64, 3)
        moved = (images[1] != images[0]).any(-1).mean()
        least, most = {'still': (0, 0), 'moving': (0.01, 0.1), 'noise': (0.9, 1),
                       'moved camera': (0.9, 1)}[kind]
        assert least <= moved <= most
        assert kind != 'noise' or np.abs(images[1] - images[0]).max() <= 6
