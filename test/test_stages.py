"""Encoders by layers on ONNX Runtime: parts have the bits of the whole, in plans too."""

import numpy as np
import pytest
from fakes import START, STEP, state_at, tiny_spec

from diffusion_policy_rt.engines import onnx_engine
from diffusion_policy_rt.engines.load import load_engine
from diffusion_policy_rt.runtime.clock import ManualClock
from diffusion_policy_rt.runtime.frame import Frame, scaled
from diffusion_policy_rt.runtime.loop import PolicyLoop
from diffusion_policy_rt.runtime.settings import LoopSettings
from diffusion_policy_rt.runtime.tiles import TiledEncoder, TileRule

torch = pytest.importorskip('torch', reason='exporting needs torch')
from diffusion_policy_rt.model.policy import Policy  # noqa: E402
from diffusion_policy_rt.train.export import export_bundle  # noqa: E402

KEYPOINT = {'encoder': {'kind': 'keypoint', 'keypoints': 4, 'channels': 16},
            'denoiser': {'kind': 'mlp', 'width': 32, 'layers': 2, 'step_dim': 16}}


@pytest.fixture(scope='module')
def wide(tmp_path_factory):
    """Return a bundle of two cameras whose images are large beside a tile."""
    torch.manual_seed(0)
    spec = tiny_spec(cameras=('front', 'wrist'), size=(170, 180), crop=(161, 170))
    return export_bundle(Policy(spec, KEYPOINT), KEYPOINT, tmp_path_factory.mktemp('wide') / 'b',
                         {})


def test_parts_of_images_have_the_bits_of_whole_ones(wide):
    engine, camera = load_engine(wide, 'onnxruntime'), wide.spec.camera('front')
    encoder = TiledEncoder(camera, engine.staged('front'),
                           lambda image: engine.encode('front', image), TileRule(True))
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (161, 170, 3), np.uint8)
    for number in range(60):
        np.testing.assert_array_equal(encoder.encode(image, number),
                                      engine.encode('front', scaled(image, camera)))
        for _ in range(rng.integers(3)):
            top, left, size = rng.integers(161), rng.integers(170), rng.integers(1, 30)
            part = image[top:top + size, left:left + size]
            part[:] = rng.integers(0, 256, part.shape, np.uint8)
    assert encoder.counts['patched'] > 30


def test_memory_is_laid_out_ahead_for_inputs_of_one_size_alone(wide, monkeypatch):
    made, make = {}, onnx_engine.make_session

    def kept(graph, *given, **told):
        made[graph.stem] = make(graph, *given, **told)
        return made[graph.stem]

    monkeypatch.setattr(onnx_engine, 'make_session', kept)
    load_engine(wide, 'onnxruntime').staged('front')
    ahead = {name: session.get_session_options().enable_mem_pattern
             for name, session in made.items()}
    patches = {name for name, session in made.items()
               if not all(isinstance(size, int) for size in session.get_inputs()[0].shape)}
    assert patches and {name for name, found in ahead.items() if not found} == patches


def moving(stamp, name):
    """Return an image in which a square moves over a still background."""
    rgb = np.random.default_rng(sum(name.encode())).integers(
        0, 256, (170, 180, 3), dtype=np.uint8)
    place = 20 + 7 * ((stamp - START) // STEP)
    rgb[place:place + 12, 60:72] = 255
    return Frame(name, stamp, stamp, lambda: rgb)


def test_plans_with_tiles_have_the_bits_of_plans_without(wide):
    loops = [PolicyLoop(wide.spec, load_engine(wide), LoopSettings(), ManualClock())
             for _ in range(2)]
    loops[1].tiling.prove()
    loops[1].tiling.rules = {name: TileRule(True) for name in ('front', 'wrist')}
    for stamp in range(START, START + 8 * STEP, STEP):
        for loop in loops:
            for camera in wide.spec.cameras:
                loop.observe_frame(moving(stamp, camera.name))
            loop.observe_state(stamp, stamp, state_at(stamp))
        plain, tiled = (loop.plan(stamp) for loop in loops)
        np.testing.assert_array_equal(plain.chunk.actions, tiled.chunk.actions)
    told = loops[1].tiling.figures()
    assert told['tiles.front.exact'] and told['tiles.front.patched'] == 7
    assert told['tiles.front.hit_ratio'] > 0.6


def test_a_reset_forgets_the_images(wide):
    loop = PolicyLoop(wide.spec, load_engine(wide), LoopSettings(), ManualClock())
    loop.tiling.prove()
    loop.tiling.rules = {'front': TileRule(True), 'wrist': TileRule()}
    for epoch in (0, 1):
        stamp = START + epoch * STEP
        for camera in wide.spec.cameras:
            loop.observe_frame(moving(START, camera.name))
        loop.observe_state(stamp, stamp, state_at(stamp))
        loop.plan(START)
        assert loop.tiling.figures()['tiles.front.whole'] == 1 + epoch
        loop.reset()


def test_layers_that_see_the_whole_image_have_no_stages(exported):
    bundle, _ = exported('resnet_unet', 'edm')
    engine = load_engine(bundle, 'onnxruntime')
    assert engine.staged('front') is None
    loop = PolicyLoop(bundle.spec, engine, LoopSettings(), ManualClock())
    loop.tiling.prove()
    assert not loop.tiling.exact and not loop.tiling.figures()
