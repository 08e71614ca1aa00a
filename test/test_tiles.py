"""Tiles: what is encoded when images change, and that latents are those of whole images."""

from itertools import starmap

import numpy as np
import pytest
from fakes import tiny_spec
from hypothesis import given
from hypothesis import strategies as st

from diffusion_policy_rt.errors import SpecError
from diffusion_policy_rt.runtime import tiles
from diffusion_policy_rt.runtime.frame import scaled
from diffusion_policy_rt.runtime.maps import Maps
from diffusion_policy_rt.runtime.ports import Stage, Staged
from diffusion_policy_rt.runtime.receptive import ReceptiveField, grown, merged
from diffusion_policy_rt.runtime.tiles import TiledEncoder, TileRule, by_tile, rectangles, shrunk
from diffusion_policy_rt.runtime.tiling import Tiling
from diffusion_policy_rt.spec import CameraSpec

SIZE, LARGE = (80, 96), (160, 176)
CAMERA = CameraSpec('front', *SIZE, 8, mean=(0, 0, 0), std=(1 / 255,) * 3)  # scales by one
SECOND = 1_000_000_000


FIELDS = tuple(starmap(ReceptiveField, ((5, 2, 2), (3, 2, 1), (3, 1, 1), (5, 1, 2))))


def summed(x, field):
    """Return a layer's neighbourhoods, each added up and one: zeros around make no zeros."""
    view = np.lib.stride_tricks.sliding_window_view(x, (field.extent,) * 2, axis=(1, 2))
    return view[:, ::field.stride, ::field.stride].sum((-1, -2), dtype=np.float32) + 1


def padded(x, margin):
    """Return [C, h, w] with zeros around it."""
    return np.pad(x, ((0, 0), (margin, margin), (margin, margin)))


def stage(*fields, calls=None):
    """Return a stage of layers that add up: integers, so that order does not matter."""
    def run(x):
        if calls is not None:
            calls.append(x.shape[1:])
        for number, field in enumerate(fields):
            x = summed(padded(x, field.margin if number else 0), field)
        return x

    return Stage(fields, run)


def staged_sum(calls=None):
    """Return an encoder of four layers in two stages whose latent tells every output apart."""
    def head(x):
        return (x * np.arange(x.size).reshape(x.shape)).sum((1, 2), dtype=np.float64)

    return Staged((stage(*FIELDS[:3], calls=calls), stage(FIELDS[3], calls=calls)), head)


def whole_sum(x):
    """Return what the encoder makes of an input, float32 [3, h, w], computed at once."""
    for field in FIELDS:
        x = summed(padded(x, field.margin), field)
    return staged_sum().head(x)


def whole(image):
    """Return what the encoder makes of an image, uint8 [h, w, 3]."""
    return whole_sum(scaled(image, CAMERA))


def make(calls=None, encode=whole_sum, **rule):
    """Return a tiled encoder; `calls` takes the shapes that its layers were given."""
    return TiledEncoder(CAMERA, staged_sum(calls), encode, TileRule(True, **rule), least=0)


def picture(seed=0, size=SIZE):
    """Return an image, uint8 [h, w, 3]."""
    return np.random.default_rng(seed).integers(20, 29, (*size, 3), np.uint8)


def with_patch(image, top, left, rows=12, columns=12):
    """Return the image with other pixels in a rectangle."""
    made = image.copy()
    made[top:top + rows, left:left + columns] += 1
    return made


corners = st.tuples(st.integers(0, SIZE[0] - 1), st.integers(0, SIZE[1] - 1))


@given(st.lists(st.lists(corners, max_size=4), min_size=1, max_size=8))
def test_whatever_moves_the_latent_is_that_of_the_whole_image(moves):
    encoder, image = make(), picture()
    for number, patches in enumerate(moves):
        for top, left in patches:
            image = with_patch(image, top, left)
        np.testing.assert_array_equal(encoder.encode(image, number), whole(image))


def test_an_unchanged_image_costs_nothing():
    calls, wholes = [], []
    encoder = make(calls, lambda x: wholes.append(1) or whole_sum(x))
    for stamp in range(5):
        encoder.encode(picture(), stamp)
    assert len(wholes) == 1 and not calls
    assert encoder.counts == {'unchanged': 4, 'patched': 0, 'whole': 1, 'refreshed': 0}
    assert encoder.reused == 4 * 120 and encoder.tiles == 5 * 120


def test_work_follows_the_moving_area():
    calls = []
    encoder, image = make(calls), picture()
    for number in range(2):
        encoder.encode(image, number)
        image = with_patch(image, 32, 32)
    encoder.encode(image, 2)  # the first patch computes every stage, the next ones their part
    calls.clear()
    encoder.encode(with_patch(image, 32, 32), 3)
    assert calls == [(43, 43), (15, 15)]


def test_when_all_moves_the_image_is_encoded_whole_and_nothing_else_is_done():
    calls = []
    encoder = make(calls)
    for number in range(4):
        encoder.encode(picture(number), number)
    assert not calls and encoder.counts['whole'] == 4 and encoder.reused == 0


def test_a_camera_that_moves_on_is_looked_at_now_and_then(monkeypatch):
    looks, moved = [], tiles._moved
    monkeypatch.setattr(tiles, '_moved', lambda *given: looks.append(number) or moved(*given))
    encoder = make()
    for number in range(40):
        latent = encoder.encode(picture(number), number)
        np.testing.assert_array_equal(latent, whole(picture(number)))
    # four in vain; then six are passed over, one is held, and one is in vain, over and over
    assert looks == [1, 2, 3, 4, 12, 20, 28, 36] and encoder.counts['whole'] == 40
    for number in range(40, 60):  # it stands again
        encoder.encode(picture(), number)
    assert encoder.counts['unchanged'] == 60 - 44 and looks[8:] == list(range(44, 60))


def test_a_small_image_is_encoded_whole_or_not_at_all():
    encoder = TiledEncoder(CAMERA, staged_sum(), whole_sum, TileRule(True))
    for image in (picture(), picture(), with_patch(picture(), 9, 9, 1, 1)):
        np.testing.assert_array_equal(encoder.encode(image, 0), whole(image))
    assert encoder.counts == {'unchanged': 1, 'patched': 0, 'whole': 2, 'refreshed': 0}


def noise(rng, least, most):
    """Return the picture with noise in every pixel."""
    return (picture() + rng.integers(least, most + 1, (*SIZE, 3))).astype(np.uint8)


def test_noise_below_the_threshold_is_no_change_and_never_adds_up():
    encoder, rng = make(threshold=3.0), np.random.default_rng(1)
    first = encoder.encode(picture(), 0)
    for stamp in range(1, 30):
        noisy = noise(rng, -3, 3)
        np.testing.assert_array_equal(encoder.encode(noisy, stamp), first)
        assert encoder.drift == 3
    assert encoder.counts['unchanged'] == 29


def test_noise_is_encoded_whole_where_the_threshold_is_zero():
    encoder, rng = make(), np.random.default_rng(1)
    for stamp in range(5):
        noisy = noise(rng, 0, 1)
        np.testing.assert_array_equal(encoder.encode(noisy, stamp), whole(noisy))
    assert encoder.counts['whole'] == 5


def test_slow_drift_is_encoded_as_soon_as_it_exceeds_the_threshold():
    encoder = make(threshold=2.5)
    for stamp in range(50):
        image = picture() + np.uint8(stamp)
        encoder.encode(image, stamp)
        assert further(image, encoder.held) <= 2
    assert encoder.counts['whole'] == 1 + 49 // 3


def further(image, held):
    """Return the largest difference of two images."""
    return np.abs(image.astype(int) - held).max()


@given(st.lists(st.tuples(corners, st.integers(-4, 4)), max_size=20), st.floats(0, 5))
def test_the_latent_is_that_of_an_image_within_the_threshold(moves, threshold):
    encoder, image = make(threshold=threshold), 100 + picture()
    encoder.encode(image, 0)
    for number, ((top, left), grey) in enumerate(moves):
        image[top:top + 20, left:left + 20] += np.uint8(grey % 256)
        latent = encoder.encode(image, number)
        assert further(image, encoder.held) <= threshold
        np.testing.assert_array_equal(latent, whole(encoder.held))


def test_a_moved_camera_is_encoded_whole():
    encoder, image = make(threshold=1.0), picture()
    encoder.encode(image, 0)
    moved = np.roll(image, 1, axis=1)
    np.testing.assert_array_equal(encoder.encode(moved, 1), whole(moved))
    assert encoder.counts['whole'] == 2


def test_a_blink_to_black_leaves_nothing_behind():
    encoder, image = make(), picture()
    for stamp, seen in enumerate((image, np.zeros_like(image), image)):
        np.testing.assert_array_equal(encoder.encode(seen, stamp), whole(seen))
    assert encoder.counts['whole'] == 3


def test_what_is_too_old_is_encoded_whole_even_unchanged():
    encoder = make(max_age=1.0)
    for stamp in (0, SECOND, SECOND + 1, 2 * SECOND, 0):
        encoder.encode(picture(), stamp)
        assert encoder.age_ns <= SECOND
    assert encoder.counts == {'unchanged': 2, 'patched': 0, 'whole': 3, 'refreshed': 2}


@given(st.lists(st.integers(-10 * SECOND, 10 * SECOND), max_size=30))
def test_no_order_of_stamps_keeps_an_image_beyond_its_age(stamps):
    encoder = make(max_age=2.0)
    for stamp in stamps:
        encoder.encode(picture(), stamp)
        assert abs(encoder.age_ns) <= 2 * SECOND


def test_an_image_that_is_written_to_afterwards_spoils_nothing():
    encoder, image = make(), picture()
    for number in range(3):
        np.testing.assert_array_equal(encoder.encode(image, number), whole(image))
        image[8 * number:8 * number + 8, 30:40] += 1
    assert encoder.counts['patched'] == 2


@given(st.lists(st.tuples(corners, st.integers(1, 9)), min_size=1, max_size=6), st.integers(0, 8))
def test_rectangles_hold_all_that_changed_and_end_where_it_ends(moves, threshold):
    far = np.zeros((77, 91, 3), np.uint8)
    for number, ((top, left), grey) in enumerate(moves):
        far[top:top + 5, left:left + 5, number % 3] = grey
    largest = by_tile(far)
    assert all(largest[row, column] == far[8 * row:8 * row + 8, 8 * column:8 * column + 8].max()
               for row, column in np.ndindex(largest.shape))
    left = far.max(2) > threshold
    for rect in rectangles(largest > threshold, far.shape):
        top, first, bottom, last = shrunk(rect, far, threshold)
        rows, columns = (np.flatnonzero((far[rect[0]:rect[2], rect[1]:rect[3]].max(2)
                                         > threshold).any(axis)) for axis in (1, 0))
        assert (top, bottom) == (rect[0] + rows[0], rect[0] + rows[-1] + 1)
        assert (first, last) == (rect[1] + columns[0], rect[1] + columns[-1] + 1)
        left[top:bottom, first:last] = False
    assert not left.any()


def test_an_engine_that_raises_half_way_leaves_nothing_half_way():
    fails = []
    first, rest = staged_sum().stages[0], staged_sum().stages[1:]

    def run(x):
        if fails:
            raise RuntimeError('gone')
        return first.run(x)

    broken = Staged((Stage(first.fields, run), *rest), staged_sum().head)
    encoder = TiledEncoder(CAMERA, broken, whole_sum, TileRule(True), 0)
    image = picture()
    encoder.encode(image, 0)
    encoder.encode(moved := with_patch(image, 0, 0), 1)
    fails.append(1)
    with pytest.raises(RuntimeError, match='gone'):
        encoder.encode(with_patch(moved, 60, 60), 2)
    fails.clear()
    np.testing.assert_array_equal(encoder.encode(moved, 3), whole(moved))


def test_a_latent_that_is_written_to_spoils_nothing():
    encoder = make()
    encoder.encode(picture(), 0)[:] = 0
    np.testing.assert_array_equal(encoder.encode(picture(), 1), whole(picture()))


def test_memory_does_not_grow():
    encoder, image = make(), picture()
    for number in range(50):
        image = with_patch(image, number, number)
        encoder.encode(image, number)
    assert len(encoder._held.maps._made) == 2


@given(st.integers(1, 7), st.integers(1, 3), st.integers(0, 4), corners, corners)
def test_a_rectangle_grows_to_all_that_depends_on_it_and_no_further(extent, stride, margin, a, b):
    if extent < stride or margin >= extent:
        return  # pixels that no output sees
    field = ReceptiveField(extent, stride, margin)
    rect = rectangle(a, b)
    image = np.zeros((1, *SIZE), np.float32)
    nothing = summed(padded(image, margin), field)
    image[:, rect[0]:rect[2], rect[1]:rect[3]] = 1
    seen = summed(padded(image, margin), field) - nothing
    rows, columns = (np.flatnonzero(seen[0].any(axis)) for axis in (1, 0))
    top, left, bottom, right = grown(field, rect, seen.shape)
    if len(rows) and len(columns):
        assert (top, bottom) == (rows[0], rows[-1] + 1)
        assert (left, right) == (columns[0], columns[-1] + 1)


def rectangle(a, b):
    """Return the rectangle between two corners."""
    return min(a[0], b[0]), min(a[1], b[1]), max(a[0], b[0]) + 1, max(a[1], b[1]) + 1


strides, margins = st.integers(1, 2), st.integers(0, 2)
firsts = st.builds(lambda stride, margin, more: ReceptiveField(
    max(stride, margin + 1) + more, stride, margin), strides, margins, margins)
inner = st.builds(lambda stride, margin, more: ReceptiveField(
    2 * margin + 1 + more % stride, stride, margin), strides, margins, margins)
stages = st.builds(lambda first, others: stage(first, *others), firsts,
                   st.lists(inner, max_size=2))


@given(st.lists(stages, min_size=1, max_size=2), st.lists(st.tuples(corners, corners), min_size=1,
                                                          max_size=3))
def test_what_is_made_anew_is_what_is_made_of_all(layers, moves):
    image = np.random.default_rng(0).integers(0, 4, (1, *SIZE)).astype(np.float32)
    maps = Maps(Staged(tuple(layers), np.copy), SIZE,
                lambda rect: image[:, rect[0]:rect[2], rect[1]:rect[3]])
    maps.fill()
    rects = merged(rectangle(*move) for move in moves)
    for top, left, bottom, right in rects:
        image[:, top:bottom, left:right] += 1
    np.testing.assert_array_equal(maps.update(rects), maps.fill())


@given(st.lists(st.tuples(corners, corners), max_size=6))
def test_merged_rectangles_cover_the_same_and_do_not_overlap(pairs):
    rects = [rectangle(a, b) for a, b in pairs]
    count = np.zeros(SIZE, int)
    for top, left, bottom, right in merged(rects):
        count[top:bottom, left:right] += 1
    assert count.max(initial=0) <= 1
    assert all(count[r[0]:r[2], r[1]:r[3]].all() for r in rects)


def test_wrist_cameras_are_left_out_by_default():
    cameras = tiny_spec(cameras=('front', 'left_wrist')).cameras
    assert [TileRule.of(camera).tiles for camera in cameras] == [True, False]


@pytest.mark.parametrize('rule', [{'threshold': -1}, {'threshold': 256}, {'max_age': -1},
                                  {'max_age': float('inf')}, {'threshold': float('nan')}])
def test_a_rule_that_bounds_nothing_is_refused(rule):
    with pytest.raises(SpecError, match=next(iter(rule))):
        TileRule(True, **rule)


class StagedFake:
    """An engine whose layers are those of `staged_sum`, and whose whole may be off by a bit."""

    def __init__(self, off=0.0):
        self.off, self.calls = off, 0

    def encode(self, camera, image):
        self.calls += 1
        return whole_sum(np.round(image)) + self.off

    def staged(self, camera):
        made = staged_sum()
        first = made.stages[0]
        return Staged((Stage(first.fields, lambda x: first.run(np.round(x))),
                       *made.stages[1:]), made.head)


@pytest.mark.parametrize('off', [0.0, 1.0])
def test_an_engine_of_other_bits_is_used_above_threshold_zero_alone(off):
    engine, spec = StagedFake(off), tiny_spec(size=LARGE)
    tiling = Tiling(spec, engine)
    tiling.prove()
    assert tiling.exact == {'front': not off}
    for threshold in (0.0, 1.0):
        tiling.rules = {'front': TileRule(True, threshold)}
        engine.calls = 0
        for stamp in range(3):
            tiling.encode('front', picture(size=LARGE), stamp)
        assert engine.calls == (3 if off and not threshold else 1)


def test_a_changed_rule_forgets_the_image_and_an_equal_one_does_not():
    engine = StagedFake()
    tiling = Tiling(tiny_spec(size=LARGE), engine)
    tiling.prove()
    for threshold, calls in ((1.0, 1), (1.0, 0), (2.0, 1)):
        tiling.rules = {'front': TileRule(True, threshold)}
        engine.calls = 0
        tiling.encode('front', picture(size=LARGE), 0)
        assert engine.calls == calls
    tiling.clear()
    tiling.encode('front', picture(size=LARGE), 0)
    assert engine.calls == 2 and tiling.figures()['tiles.front.hit_ratio'] == 0.25
