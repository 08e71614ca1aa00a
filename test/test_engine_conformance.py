"""Every engine gives the networks' own outputs, again and again."""

import os
from pathlib import Path

import numpy as np
import pytest
from fakes import MODELS, tiny_spec

torch = pytest.importorskip('torch', reason='the reference outputs need torch')

from diffusion_policy_rt.engines.bundle import read_bundle, write_bundle  # noqa: E402
from diffusion_policy_rt.engines.load import ENGINES, installed, load_engine  # noqa: E402
from diffusion_policy_rt.errors import BundleError, DprtError, EngineError  # noqa: E402
from diffusion_policy_rt.runtime.precond import denoise  # noqa: E402
from diffusion_policy_rt.runtime.sampler import sample  # noqa: E402

every = pytest.mark.parametrize('engine, model, kind', [
    (engine, model, kind) for engine in installed() for model in MODELS
    for kind in ('edm', 'ddpm', 'flow')])
engines = pytest.mark.parametrize('engine', installed())


def load(exported, engine, model='keypoint_mlp', kind='edm'):
    return load_engine(exported(model, kind)[0], engine)


def inputs(spec, seed=0):
    """Return an image, a condition and a normalised noise."""
    rng = np.random.default_rng(seed)
    return (rng.uniform(-1, 1, (3, *spec.cameras[0].input_size)).astype(np.float32),
            rng.standard_normal(spec.cond_dim).astype(np.float32),
            rng.standard_normal((spec.horizon, len(spec.action))))


def resident_bytes():
    """Return the resident memory of this process."""
    try:
        return int(Path('/proc/self/statm').read_text().split()[1]) * os.sysconf('SC_PAGE_SIZE')
    except OSError:
        pytest.skip('resident memory is read from /proc')


def close(a, b):
    assert np.abs(a - b).max() <= 1e-4 * np.abs(b).max()


def reference(policy):
    """Return the raw network of a policy, one sample at a time."""
    def network(x, c_noise, cond):
        with torch.no_grad():
            return policy.denoiser(*(torch.as_tensor(np.asarray(a, np.float32))[None]
                                     for a in (x, c_noise, cond)))[0].numpy()

    return network


@every
def test_a_latent_is_that_of_the_camera_s_own_network(exported, engine, model, kind):
    bundle, policy = exported(model, kind)
    image = inputs(bundle.spec)[0]
    made = load_engine(bundle, engine)
    for camera in bundle.spec.cameras:
        with torch.no_grad():
            expected = policy.encoders[camera.name](torch.from_numpy(image)[None])[0].numpy()
        latent = made.encode(camera.name, image)
        assert latent.shape == (camera.latent_dim,) and latent.dtype == np.float32
        close(latent, expected)


@every
def test_every_level_of_every_schedule_is_denoised_as_the_network_does(
        exported, engine, model, kind):
    bundle, policy = exported(model, kind)
    made, (_, cond, noise) = load_engine(bundle, engine), inputs(bundle.spec)
    for schedule in bundle.spec.schedules.values():
        for sigma in schedule.sigmas:
            expected = denoise(reference(policy), bundle.spec.precond, sigma * noise, sigma, cond)
            result = made.denoise(sigma * noise, sigma, cond)
            assert result.shape == noise.shape and result.dtype == np.float64
            close(result, expected)


@every
@pytest.mark.parametrize('n', [1, 2, 4, 8])
def test_a_sample_of_n_steps_is_that_of_the_network(exported, engine, model, kind, n):
    bundle, policy = exported(model, kind)
    spec, made = bundle.spec, load_engine(bundle, engine)
    _, cond, noise = inputs(spec)
    networks = (made.network, reference(policy))
    result, expected = (sample(
        lambda x, s, stop, f=network: denoise(f, spec.precond, x, s, cond, stop),
        spec.schedule(n), noise,
        spec.precond.sigma_data, spec.clip) for network in networks)
    close(result, expected)


@every
def test_repeated_calls_and_a_second_load_give_the_same_bits(exported, engine, model, kind):
    bundle, _ = exported(model, kind)
    image, cond, noise = inputs(bundle.spec)
    first, second = load_engine(bundle, engine), load_engine(read_bundle(bundle.folder), engine)
    latents = [e.encode('front', image) for e in (first, first, second)]
    outputs = [e.denoise(noise, 1.0, cond) for e in (first, first, second)]
    for made in (latents, outputs):
        np.testing.assert_array_equal(made[0], made[1])
        np.testing.assert_array_equal(made[0], made[2])


@engines
def test_an_output_stays_what_it_was_when_the_engine_is_called_again(exported, engine):
    made = load(exported, engine)
    spec = exported('keypoint_mlp', 'edm')[0].spec
    latent = made.encode('front', inputs(spec)[0])
    before = latent.copy()
    made.encode('front', inputs(spec, seed=1)[0])
    np.testing.assert_array_equal(latent, before)


@engines
def test_an_engine_says_its_name_and_the_type_of_every_part(exported, engine):
    made = load(exported, engine)
    assert made.name == engine
    assert made.dtypes and set(made.dtypes.values()) <= {'float32', 'float16', 'int8'}


def test_auto_takes_the_first_engine_that_is_installed(exported):
    assert load(exported, 'auto').name == installed()[0]


def test_an_unknown_engine_lists_the_known(exported):
    with pytest.raises(EngineError, match='unknown engine .abacus.*' + '.*'.join(ENGINES)):
        load(exported, 'abacus')


@engines
def test_a_bundle_without_networks_is_refused_in_one_line(tmp_path, engine):
    bundle = write_bundle(tmp_path / 'p', {'spec': tiny_spec().to_json()}, lambda folder: None)
    with pytest.raises(DprtError) as caught:
        load_engine(bundle, engine)
    assert '\n' not in str(caught.value)


@engines
def test_networks_of_garbage_are_refused_in_one_line(tmp_path, engine):
    def fill(folder):
        for name in ('encoder_front.onnx', 'denoiser.onnx', 'weights.safetensors'):
            (folder / name).write_bytes(b'garbage')

    manifest = {'spec': tiny_spec().to_json(), 'model': MODELS['keypoint_mlp']}
    bundle = write_bundle(tmp_path / 'p', manifest, fill)
    with pytest.raises((EngineError, BundleError)) as caught:
        load_engine(bundle, engine)
    assert '\n' not in str(caught.value)


def test_weights_of_another_network_are_refused_by_what_does_not_fit(exported, tmp_path):
    bundle, _ = exported('keypoint_mlp', 'edm')
    other = {**MODELS['keypoint_mlp'], 'denoiser': {'kind': 'mlp', 'width': 48, 'layers': 2}}
    changed = write_bundle(
        tmp_path / 'p', {'spec': bundle.spec.to_json(), 'model': other},
        lambda folder: (folder / 'weights.safetensors').write_bytes(
            bundle.path('weights.safetensors').read_bytes()))
    with pytest.raises(EngineError, match=r'model: there is no denoiser\S+ of shape') as caught:
        load_engine(changed, 'torch')  # the one that builds the network itself
    assert '\n' not in str(caught.value)


def test_the_weights_stand_in_the_bundle_once(exported):
    bundle, _ = exported('resnet_unet', 'edm')
    sizes = {name: entry['bytes'] for name, entry in bundle.files.items()}
    graphs = sum(size for name, size in sizes.items() if name.endswith('.onnx'))
    assert graphs < sizes['weights.safetensors'] / 2


@engines
def test_ten_thousand_calls_take_no_more_memory_than_a_thousand(exported, engine):
    made, spec = load(exported, engine), exported('keypoint_mlp', 'edm')[0].spec
    _, cond, noise = inputs(spec)
    for _ in range(1_000):
        made.denoise(noise, 1.0, cond)
    before = resident_bytes()
    for _ in range(10_000):
        made.denoise(noise, 1.0, cond)
    assert resident_bytes() - before < 10_000 * 200  # a call keeps less than its output
