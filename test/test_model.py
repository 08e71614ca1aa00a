"""The networks are those of the papers, by size, by name and by what they see."""

import numpy as np
import pytest
from fakes import KEYPOINT_MLP, stirred, tiny_spec

torch = pytest.importorskip('torch', reason='the networks are torch modules')

from diffusion_policy_rt.errors import SpecError  # noqa: E402
from diffusion_policy_rt.model.blocks import SinusoidalPosEmb  # noqa: E402
from diffusion_policy_rt.model.dit import DiTDenoiser  # noqa: E402
from diffusion_policy_rt.model.encoder import (  # noqa: E402
    KeypointEncoder, ResNetEncoder, SpatialSoftmax)
from diffusion_policy_rt.model.mlp import MLPDenoiser  # noqa: E402
from diffusion_policy_rt.model.policy import Policy, make_encoder  # noqa: E402
from diffusion_policy_rt.model.transformer import TransformerDenoiser  # noqa: E402
from diffusion_policy_rt.model.unet import ConditionalUnet1D  # noqa: E402
from diffusion_policy_rt.runtime.observation import observed  # noqa: E402


def parameters(make):
    with torch.device('meta'):
        return dict(make().named_parameters())


def count(weights):
    return sum(p.numel() for p in weights.values())


def test_the_base_unet_has_the_published_251_million_parameters():
    assert count(parameters(lambda: ConditionalUnet1D(2, 16, 132))) // 100_000 == 2515


def test_the_unet_s_weights_have_their_published_names_and_shapes():
    shapes = {n: tuple(p.shape)
              for n, p in parameters(lambda: ConditionalUnet1D(2, 16, 132)).items()}
    for name, shape in {
            'diffusion_step_encoder.1.weight': (512, 128),
            'diffusion_step_encoder.3.weight': (128, 512),
            'down_modules.0.0.conv1.block.0.weight': (512, 2, 5),
            'down_modules.0.0.conv1.block.1.weight': (512,),
            'down_modules.2.0.residual_conv.weight': (2048, 1024, 1),
            'mid_modules.1.conv2.block.0.weight': (2048, 2048, 5),
            'up_modules.0.0.conv1.block.0.weight': (1024, 4096, 5),
            'final_conv.1.weight': (2, 512, 1)}.items():
        assert shapes[name] == shape


def test_the_published_encoder_is_a_resnet_18_without_batch_normalisation():
    weights = parameters(ResNetEncoder)
    assert 11.15e6 < count(weights) < 11.25e6
    assert weights['backbone.0.weight'].shape == (64, 3, 7, 7)
    assert weights['backbone.7.1.conv2.weight'].shape == (512, 512, 3, 3)
    assert not [n for n, _ in ResNetEncoder(width=16).named_buffers()]  # no running statistics


def test_a_far_pixel_leaves_the_keypoint_features_elsewhere_as_they_are():
    backbone = KeypointEncoder(4, 8).backbone
    image = torch.randn(1, 3, 96, 96)
    other = image.clone()
    other[..., 90, 90] += 100
    with torch.no_grad():
        before, after = backbone(image), backbone(other)
    assert torch.equal(before[..., :12, :], after[..., :12, :])
    assert torch.equal(before[..., :, :12], after[..., :, :12])
    assert not torch.equal(before, after)


@pytest.mark.parametrize('row, column, x, y', [
    (0, 0, -1, -1), (0, 6, 1, -1), (4, 0, -1, 1), (2, 3, 0, 0), (1, 3, 0, -0.5)])
def test_spatial_softmax_of_a_peak_is_where_the_peak_is(row, column, x, y):
    pool = SpatialSoftmax(1, 1)
    torch.nn.init.ones_(pool.nets.weight)
    features = torch.zeros(1, 1, 5, 7)
    features[..., row, column] = 1e3
    np.testing.assert_allclose(pool(features).detach().numpy(), [[[x, y]]], atol=1e-6)


@pytest.mark.parametrize('make', [
    lambda: MLPDenoiser(2, 8, 6, 32, 2, 16),
    lambda: ConditionalUnet1D(2, 8, 6, (16, 32), 5, 4, 16),
    lambda: stirred(TransformerDenoiser(2, 8, 6, 2, 6, 16, 2, 2)),
    lambda: stirred(DiTDenoiser(2, 8, 6, 16, 2, 2))])
def test_a_denoiser_uses_sample_level_and_condition_of_its_own_row(make):
    torch.manual_seed(0)
    net = make().eval()
    x, level, cond = torch.randn(3, 8, 2), torch.tensor([-300.0, 5, 900]), torch.randn(3, 6)
    with torch.no_grad():
        whole = net(x, level, cond)
        assert whole.shape == x.shape
        for k in range(3):
            row = net(x[k:k + 1], level[k:k + 1], cond[k:k + 1])
            torch.testing.assert_close(row[0], whole[k], rtol=1e-4, atol=1e-5)
        changed = (net(x + 1, level, cond), net(x, level + 100, cond), net(x, level, cond + 1))
    assert all((other - whole).abs().max() > 1e-3 for other in changed)


def test_a_horizon_that_the_unet_cannot_halve_is_refused():
    with pytest.raises(ValueError, match='horizon 10'):
        ConditionalUnet1D(2, 10, 6, (16, 32, 64), groups=4)


def test_the_embedding_of_a_level_is_sines_then_cosines():
    made = SinusoidalPosEmb(4)(torch.tensor([2.0]))[0]
    torch.testing.assert_close(
        made, torch.tensor([2.0, 2e-4, 0, 0]).sin() + torch.tensor([0, 0, 2.0, 2e-4]).cos()
        - torch.tensor([1.0, 1, 0, 0]))


def test_training_joins_the_condition_as_the_robot_does():
    spec = tiny_spec(3, ('front', 'wrist'))
    rng = np.random.default_rng(0)
    latents = {c.name: rng.standard_normal((3, 8)).astype(np.float32) for c in spec.cameras}
    states = rng.standard_normal((3, 3))
    batch = Policy(spec, KEYPOINT_MLP).observed(
        {name: torch.from_numpy(x)[None] for name, x in latents.items()},
        torch.from_numpy(spec.state.normalise(states).astype(np.float32))[None])
    expected = observed(spec, {name: list(x) for name, x in latents.items()}, states)
    np.testing.assert_array_equal(batch[0].numpy(), expected)


@pytest.mark.parametrize('model, reason', [
    ({**KEYPOINT_MLP, 'encoder': {'kind': 'vit'}}, 'vit.*resnet, resnet_mean, keypoint'),
    ({**KEYPOINT_MLP, 'denoiser': {'kind': 'mlp', 'depth': 2}}, 'mlp.*depth'),
    ({**KEYPOINT_MLP, 'encoder': {'kind': 'keypoint', 'keypoints': 5}}, 'makes 10.*says 8'),
    ({'encoder': KEYPOINT_MLP['encoder']}, 'denoiser'),
    ({}, 'encoder')])
def test_a_model_that_does_not_exist_or_does_not_fit_the_spec_is_refused(model, reason):
    with pytest.raises(SpecError, match=reason):
        Policy(tiny_spec(), model)


def test_encoding_a_batch_of_windows_encodes_each_frame_alone():
    torch.manual_seed(0)
    policy = Policy(tiny_spec(), KEYPOINT_MLP).eval()
    images = torch.randn(2, 2, 3, 12, 16)
    with torch.no_grad():
        latents = policy.encode({'front': images})['front']
        assert latents.shape == (2, 2, make_encoder(KEYPOINT_MLP['encoder']).latent_dim)
        alone = policy.encoders['front'](images[1, 0][None])[0]
    torch.testing.assert_close(latents[1, 0], alone)
