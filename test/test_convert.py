"""Messages to pixels and positions: what is accepted, and what each refusal says."""

import array
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from fakes import MS

from diffusion_policy_rt.errors import FrameError
from diffusion_policy_rt.ros.convert import (
    ENCODINGS, FUTURE_NS, compressed_to_frame, compressed_to_rgb, image_to_frame, image_to_rgb,
    joint_state_to_values, stamp_ns)
from diffusion_policy_rt.spec import CameraSpec

CAMERA = CameraSpec('front', 6, 8, 4)
RGB = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
ORDER = {'rgb8': [0, 1, 2], 'bgr8': [2, 1, 0], 'rgba8': [0, 1, 2, 0], 'bgra8': [2, 1, 0, 0],
         'mono8': [1]}


def header(ns=0):
    return SimpleNamespace(stamp=SimpleNamespace(sec=ns // 10**9, nanosec=ns % 10**9))


def image(encoding='rgb8', padding=0, stamp=0, rgb=RGB, **changes):
    """Return an Image of these pixels; each row is followed by `padding` bytes of noise."""
    rows, columns = rgb.shape[:2]
    pixels = rgb[..., ORDER.get(encoding, [0, 1, 2])].reshape(rows, -1)
    noise = np.full((rows, padding), 77, np.uint8)
    data = array.array('B', np.hstack([pixels, noise]).tobytes())
    fields = {'header': header(stamp), 'encoding': encoding, 'height': rows, 'width': columns,
              'step': pixels.shape[1] + padding, 'data': data}
    return SimpleNamespace(**fields | changes)


def compressed(suffix='.png', rgb=RGB, cut=None, **changes):
    data = cv2.imencode(suffix, cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))[1].tobytes()[:cut]
    fields = {'header': header(), 'format': suffix[1:], 'data': array.array('B', data)}
    return SimpleNamespace(**fields | changes)


def joints(**positions):
    return SimpleNamespace(header=header(), name=list(positions),
                           position=array.array('d', positions.values()))


@pytest.mark.parametrize('padding', [0, 5])
@pytest.mark.parametrize('encoding', ENCODINGS)
def test_every_accepted_encoding_becomes_rgb(encoding, padding):
    expected = RGB if encoding != 'mono8' else np.repeat(RGB[..., 1:2], 3, axis=2)
    rgb = image_to_rgb(image(encoding, padding))
    assert rgb.dtype == np.uint8
    np.testing.assert_array_equal(rgb, expected)


@pytest.mark.parametrize('padding', [0, 5])
def test_rgb8_is_not_copied(padding):
    msg = image(padding=padding)
    assert np.shares_memory(image_to_rgb(msg), np.frombuffer(msg.data, np.uint8))


@pytest.mark.parametrize(('changes', 'told'), [
    ({'encoding': '32FC1'}, r"encoding '32FC1' is not accepted; use one of rgb8, bgr8, rgba8"),
    ({'encoding': 'yuv422'}, 'not accepted'),
    ({'data': array.array('B', bytes(10))}, r'needs 144 bytes, found 10'),
    ({'data': array.array('B')}, r'found 0'),
    ({'step': 5}, r'rows of 5 bytes'),
    ({'width': 0}, r'0x6'),
    ({'height': 0}, r'8x0'),
])
def test_a_malformed_image_is_refused_by_what_is_wrong(changes, told):
    with pytest.raises(FrameError, match=told):
        image_to_frame(CAMERA, image(**changes), 0)


def test_an_image_smaller_than_the_policys_is_refused_at_arrival():
    with pytest.raises(FrameError, match='8x5 image is smaller than the 8x6 .* raise the camera'):
        image_to_frame(CAMERA, image(rgb=RGB[:5]), 0)


def test_pixels_are_read_when_the_frame_is_needed_and_not_before():
    msg = image(stamp=5 * MS)
    frame = image_to_frame(CAMERA, msg, 9 * MS)
    msg.data[0] ^= 255  # a view of the message, so that arrival costs nothing
    assert (frame.camera, frame.stamp_ns, frame.arrival_ns) == ('front', 5 * MS, 9 * MS)
    assert frame.decode()[0, 0, 0] == RGB[0, 0, 0] ^ 255


@pytest.mark.parametrize('suffix', ['.png', '.jpg'])
def test_compressed_images_become_rgb(suffix):
    smooth = cv2.resize(RGB[:2, :2], (32, 24), interpolation=cv2.INTER_LINEAR)
    rgb = compressed_to_rgb(compressed(suffix, smooth))
    assert np.abs(rgb.astype(int) - smooth).max() <= (0 if suffix == '.png' else 40)
    assert np.abs(rgb.astype(int) - smooth).mean() < 8


@pytest.mark.parametrize('suffix', ['.png', '.jpg'])
@pytest.mark.parametrize('cut', [-1, -20, 60, 9])
def test_a_truncated_compressed_image_is_refused_at_arrival(suffix, cut):
    with pytest.raises(FrameError, match='is truncated'):
        compressed_to_frame(CAMERA, compressed(suffix, cut=cut), 0)


@pytest.mark.parametrize('data', [b'', b'GIF89a........', bytes(100)])
def test_compressed_data_of_another_kind_are_refused(data):
    with pytest.raises(FrameError, match="format 'png' is not accepted; use jpeg or png"):
        compressed_to_frame(CAMERA, compressed(data=array.array('B', data)), 0)


def test_a_damaged_compressed_image_is_refused_when_it_is_decoded():
    whole = compressed().data.tobytes()
    damaged = whole[:8] + bytes(len(whole) - 20) + whole[-12:]
    frame = compressed_to_frame(CAMERA, compressed(data=array.array('B', damaged)), 0)
    with pytest.raises(FrameError, match='is damaged'):
        frame.decode()


def test_a_stamp_of_zero_is_replaced_by_the_arrival():
    assert stamp_ns(header(), 123) == 123
    assert stamp_ns(header(7 * 10**9 + 5), 8 * 10**9) == 7 * 10**9 + 5


def test_a_stamp_from_the_future_is_refused_and_a_small_lead_is_not():
    assert stamp_ns(header(FUTURE_NS + 5), 5) == FUTURE_NS + 5
    with pytest.raises(FrameError, match='lies in the future; synchronise the clocks'):
        stamp_ns(header(FUTURE_NS + 6), 5)


def test_joints_are_matched_by_name_in_any_order_among_others():
    msg = joints(gripper=3.0, y=2.0, arm=9.0, x=1.0)
    np.testing.assert_array_equal(joint_state_to_values(('x', 'y', 'gripper'), msg), [1, 2, 3])


def test_a_missing_joint_is_named():
    with pytest.raises(FrameError, match='joint y is missing .* it holds x, z'):
        joint_state_to_values(('x', 'y'), joints(x=1.0, z=2.0))


def test_positions_shorter_than_the_names_are_refused():
    msg = joints(x=1.0, y=2.0)
    del msg.position[1]
    with pytest.raises(FrameError, match='2 names has 1 positions'):
        joint_state_to_values(('x',), msg)
