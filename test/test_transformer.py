"""The transformers are those of the papers: by size, by name, by what each token sees."""

import pytest
from fakes import MODELS, stirred, tiny_spec

torch = pytest.importorskip('torch', reason='the networks are torch modules')

from diffusion_policy_rt.model.attention import Attention, separated  # noqa: E402
from diffusion_policy_rt.model.dit import DiTBlock, DiTDenoiser  # noqa: E402
from diffusion_policy_rt.model.policy import Policy  # noqa: E402
from diffusion_policy_rt.model.transformer import (  # noqa: E402
    DecoderLayer, TransformerDenoiser)

TINY = {'action_dim': 2, 'horizon': 8, 'cond_dim': 6, 'n_obs': 2, 'observed_dim': 6,
        'width': 16, 'layers': 2, 'heads': 2}


def published_layer():
    return torch.nn.TransformerDecoderLayer(
        16, 2, 64, dropout=0, activation='gelu', batch_first=True, norm_first=True).eval()


@pytest.mark.parametrize('mask', [None, torch.nn.Transformer.generate_square_subsequent_mask(5)])
def test_a_decoder_layer_is_torch_s_with_torch_s_own_weights(mask):
    theirs, ours = stirred(published_layer()), DecoderLayer(16, 2)
    ours.load_state_dict(separated(theirs.state_dict()))
    x, memory = torch.randn(3, 5, 16), torch.randn(3, 4, 16)
    with torch.no_grad():
        torch.testing.assert_close(ours(x, memory, mask, None),
                                   theirs(x, memory, tgt_mask=mask), rtol=1e-4, atol=1e-4)


def test_the_published_image_transformer_has_its_names_and_shapes():
    with torch.device('meta'):
        net = TransformerDenoiser(2, 10, 132, 2, 132)
    shapes = {name: tuple(p.shape) for name, p in net.named_parameters()}
    for name, shape in {
            'pos_emb': (1, 10, 256), 'cond_pos_emb': (1, 3, 256), 'input_emb.weight': (256, 2),
            'cond_obs_emb.weight': (256, 66), 'encoder.0.weight': (1024, 256),
            'encoder.2.weight': (256, 1024), 'decoder.layers.7.linear1.weight': (1024, 256),
            'decoder.layers.0.multihead_attn.out_proj.weight': (256, 256),
            'decoder.layers.0.norm3.weight': (256,), 'ln_f.bias': (256,),
            'head.weight': (2, 256)}.items():
        assert shapes[name] == shape
    layers = sum(p.numel() for p in torch.nn.TransformerDecoderLayer(
        256, 4, 1024, device='meta').parameters()) * 8
    assert sum(p.numel() for p in net.decoder.parameters()) == layers


def test_an_action_sees_none_after_it_and_no_observation_after_its_instant():
    net = stirred(TransformerDenoiser(**TINY))
    x, level, cond = torch.randn(1, 8, 2), torch.tensor([3.0]), torch.randn(1, 6)
    later, newest = x.clone(), cond.clone()
    later[:, 5] += 1
    newest[:, 3:] += 1  # the second of two instants
    with torch.no_grad():
        whole = net(x, level, cond)
        changed = [(other - whole).abs().amax(-1)[0] > 1e-6
                   for other in (net(later, level, cond), net(x, level, newest))]
    assert changed[0].tolist() == [False] * 5 + [True] * 3
    assert changed[1].tolist() == [False] + [True] * 7


def test_committed_actions_are_told_to_every_action():
    net = stirred(TransformerDenoiser(**TINY | {'cond_dim': 9}))
    x, level, cond = torch.randn(1, 8, 2), torch.tensor([3.0]), torch.randn(1, 9)
    told = cond.clone()
    told[:, 6:] += 1
    with torch.no_grad():
        assert ((net(x, level, told) - net(x, level, cond)).abs().amax(-1) > 1e-6).all()


def test_only_the_first_token_of_the_memory_depends_on_the_level():
    net = stirred(TransformerDenoiser(**TINY))
    cond = torch.randn(1, 6)
    with torch.no_grad():
        one, other = (net.memory(torch.tensor([level]), cond) for level in (3.0, 40.0))
    assert torch.equal(one[:, 1:], other[:, 1:]) and not torch.equal(one[:, 0], other[:, 0])


def test_a_fresh_dit_block_is_the_identity_and_a_trained_one_is_not():
    h, features = torch.randn(2, 5, 16), torch.randn(2, 16)
    block = DiTBlock(16, 2)
    with torch.no_grad():
        assert torch.equal(block(h, features), h)
        assert not torch.allclose(stirred(block)(h, features), h)


def test_a_fresh_dit_estimates_nothing():
    net = DiTDenoiser(2, 8, 6, 16, 2, 2)
    with torch.no_grad():
        assert not net(torch.randn(3, 8, 2), torch.ones(3), torch.randn(3, 6)).any()


@pytest.mark.parametrize('model', ['transformer', 'dit'])
def test_a_loss_may_differentiate_forward_by_the_level(model):
    policy = Policy(tiny_spec(), MODELS[model])
    net = stirred(policy.denoiser)
    x, cond = torch.randn(2, 8, 2), torch.randn(2, policy.spec.cond_dim)
    level, step = torch.tensor([3.0, 4.0]), 1e-2
    slope = torch.func.jvp(lambda t: net(x, t, cond), (level,), (torch.ones(2),))[1]
    with torch.no_grad():
        ahead, behind = (net(x, level + d, cond) for d in (step, -step))
    torch.testing.assert_close(slope, (ahead - behind) / (2 * step), rtol=0.1, atol=0.05)


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match='width 16.*3 heads'):
        Attention(16, 3)


@pytest.mark.parametrize('kind', ['transformer', 'dit'])
def test_a_network_of_a_size_to_be_measured_is_written(tmp_path, kind):
    pytest.importorskip('onnx')
    from diffusion_policy_rt.engines.torch_engine import load_policy
    from diffusion_policy_rt.train.base import base_spec, transformer, write_base

    policy = load_policy(write_base(tmp_path / 'b', base_spec(), denoiser=transformer(kind, 3e5)))
    assert 2e5 < sum(p.numel() for p in policy.denoiser.parameters()) < 6e5
    assert all(p.any() for p in policy.denoiser.parameters() if p.ndim > 1)
