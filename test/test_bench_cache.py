"""`dprt bench --what cache`: rows whose hits and errors are those of the caches."""

import itertools

import numpy as np
import pytest

cv2 = pytest.importorskip('cv2', reason='pictures are read by OpenCV')
pytest.importorskip('gym_pusht', reason='the scenes are of Push-T')

from diffusion_policy_rt.errors import DprtError  # noqa: E402
from diffusion_policy_rt.replay.bench_cache import CACHES, EXACT, bench_cache  # noqa: E402
from diffusion_policy_rt.replay.scenes import SCENES, frames_per_plan, pusht  # noqa: E402
from diffusion_policy_rt.replay.tile_picture import write_tiles  # noqa: E402

ALWAYS = [cache for cache in CACHES if 'blocks' not in cache]


@pytest.fixture(scope='module')
def rows(bundle):
    """Return the rows by scene and cache."""
    made = bench_cache([str(bundle.folder)], ['onnxruntime'], 1, 1, 6, lambda turns: turns)
    return {(row['scene'], row['cache']): row for row in made}


def test_every_cache_is_measured_on_every_scene(rows):
    assert set(rows) == set(itertools.product(SCENES, ALWAYS))
    assert all(rows[scene, 'none']['plan_ratio'] == 1 for scene in SCENES)


@pytest.mark.parametrize('cache', ['latents', 'condition', EXACT])
def test_exact_caches_change_no_action(rows, cache):
    assert all(rows[scene, cache]['action_rmse'] == 0 for scene in SCENES)


def test_hits_are_those_of_the_scene(rows):
    assert rows['still', EXACT]['hit_ratio'] > 0.9
    assert rows['moved camera', EXACT]['hit_ratio'] == 0
    assert rows['push-t, noise', EXACT]['hit_ratio'] == 0
    assert rows['no new frame', 'condition']['condition_hit_ratio'] > 0.9
    assert rows['all frames new', EXACT]['condition_hit_ratio'] == 0
    assert rows['no new frame', 'latents']['condition_hit_ratio'] == 0  # switched off


def test_scenes_are_what_they_say():
    images = pusht(64, 96)
    assert np.shape(images) == (16, 64, 96, 3)
    bounds = {'still': (0, 0), 'push-t': (0.001, 0.3), 'push-t, noise': (0.5, 1),
              'square of 5 %': (0.03, 0.06), 'square of 20 %': (0.17, 0.22),
              'moved camera': (0.9, 1)}
    for scene, (least, most) in bounds.items():
        first, second = itertools.islice(itertools.cycle(SCENES[scene](images)), 2)
        assert least <= (first != second).any(-1).mean() <= most
    counts = [list(itertools.islice(frames_per_plan(scene, 4), 3)) for scene in (
        'no new frame', 'still', 'all frames new')]
    assert counts == [[1, 0, 0], [1, 1, 1], [4, 4, 4]]


def test_the_picture_shows_three_scenes(bundle, tmp_path):
    write_tiles(tmp_path / 'tiles.png', str(bundle.folder))
    assert cv2.imread(str(tmp_path / 'tiles.png')).shape[1] == 3 * round(57 * 480 / 45)


def test_an_encoder_without_layers_has_no_picture(exported, tmp_path):
    with pytest.raises(DprtError, match='keypoint encoder'):
        write_tiles(tmp_path / 'tiles.png', str(exported('resnet_unet', 'edm')[0].folder))
