"""Pixels become the network's input in one way, in training and on the robot."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_policy_rt.errors import FrameError
from diffusion_policy_rt.runtime.frame import Frame, fit, to_input
from diffusion_policy_rt.spec import CameraSpec

CAMERA = CameraSpec('front', 12, 16, 8)
RGB = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)


def test_an_image_of_the_right_size_is_only_scaled():
    x = to_input(RGB, CAMERA)
    assert x.dtype == np.float32 and x.shape == (3, 12, 16) and x.flags.c_contiguous
    np.testing.assert_allclose(x, RGB.transpose(2, 0, 1) / 127.5 - 1, atol=1e-6)


def test_mean_and_std_apply_to_their_own_channel():
    camera = CameraSpec('front', 12, 16, 8, mean=(0, 0.5, 1), std=(1, 0.5, 0.25))
    expected = (RGB / 255 - camera.mean) / camera.std
    np.testing.assert_allclose(to_input(RGB, camera), expected.transpose(2, 0, 1), atol=1e-5)


@pytest.mark.parametrize('rows, columns', [(24, 52), (44, 32)])
def test_resizing_keeps_the_aspect_by_cutting_the_middle(rows, columns):
    image = np.zeros((rows, columns, 3), np.uint8)
    top, left = (rows - 24) // 2, (columns - 32) // 2
    image[top:top + 24, left:left + 32] = np.kron(RGB, np.ones((2, 2, 1), np.uint8))
    np.testing.assert_array_equal(fit(image, CAMERA), RGB)


@given(st.integers(12, 40), st.integers(16, 40), st.integers(0, 255))
def test_a_plain_image_of_any_size_stays_plain(rows, columns, value):
    made = fit(np.full((rows, columns, 3), value, np.uint8), CAMERA)
    assert made.shape == (12, 16, 3) and (made == value).all()


@pytest.mark.parametrize('rows, columns', [(11, 40), (40, 15), (6, 8)])
def test_a_smaller_image_is_refused_not_enlarged(rows, columns):
    with pytest.raises(FrameError, match=f'front: a {columns}x{rows} image is smaller'):
        to_input(np.zeros((rows, columns, 3), np.uint8), CAMERA)


@pytest.mark.parametrize('image', [RGB.astype(np.float32), RGB[..., 0], RGB[..., :2],
                                   np.zeros((12, 16, 4), np.uint8), RGB[None]])
def test_another_dtype_or_shape_is_refused(image):
    with pytest.raises(FrameError, match='front: expected uint8'):
        to_input(image, CAMERA)


def test_the_crop_is_cut_from_the_middle():
    camera = CameraSpec('front', 12, 16, 8, crop=(8, 10))
    np.testing.assert_array_equal(to_input(RGB, camera), to_input(RGB, CAMERA)[:, 2:10, 3:13])


@given(st.integers(-20, 20), st.integers(-20, 20))
def test_a_shift_moves_the_window_and_repeats_the_border(rows, columns):
    padded = np.pad(RGB, ((20, 20), (20, 20), (0, 0)), mode='edge')
    moved = padded[20 + rows:32 + rows, 20 + columns:36 + columns]
    np.testing.assert_array_equal(to_input(RGB, CAMERA, (rows, columns)), to_input(moved, CAMERA))


@given(st.data(), st.none() | st.tuples(st.integers(1, 12), st.integers(1, 16)))
def test_training_makes_the_same_input_bit_for_bit(data, crop):
    torch = pytest.importorskip('torch', reason='training needs torch')
    from diffusion_policy_rt.train.pixels import to_inputs

    camera = CameraSpec('front', 12, 16, 8, crop, (0.48, 0.45, 0.4), (0.23, 0.22, 0.25))
    shift = st.tuples(st.integers(-6, 6), st.integers(-6, 6))
    shifts = data.draw(st.lists(shift, min_size=3, max_size=3))
    images = np.random.default_rng(1).integers(0, 256, (3, 12, 16, 3), dtype=np.uint8)
    batch = to_inputs(torch.from_numpy(images), camera, torch.tensor(shifts)).numpy()
    np.testing.assert_array_equal(
        batch, np.stack([to_input(i, camera, s) for i, s in zip(images, shifts)]))


def test_training_resizes_as_the_robot_does():
    from diffusion_policy_rt.train.data.frames import fitted

    images = np.random.default_rng(1).integers(0, 256, (2, 33, 47, 3), dtype=np.uint8)
    np.testing.assert_array_equal(fitted(images, CAMERA), [fit(i, CAMERA) for i in images])


def test_a_frame_of_pixels_at_hand_arrives_at_its_stamp():
    frame = Frame.of('front', 5, RGB)
    assert (frame.stamp_ns, frame.arrival_ns) == (5, 5) and frame.decode() is RGB
