"""Losses: least for the exact network, and keypoints in the coordinates of what is seen."""

import numpy as np
import pytest
from fakes import precond

torch = pytest.importorskip('torch', reason='training needs torch')

from diffusion_policy_rt.spec import CameraSpec  # noqa: E402
from diffusion_policy_rt.train.feed import Whole  # noqa: E402
from diffusion_policy_rt.train.objectives import DenoisingLoss, KeypointObjective  # noqa: E402
from diffusion_policy_rt.train.recipe import Training  # noqa: E402

torch.set_num_threads(1)
HOW = Training(epochs=1, batch_size=32, learning_rate=1e-3)


class Gaussian(torch.nn.Module):
    """The exact raw network of chunks N(mu, deviation^2), and a wrong one beside it."""

    def __init__(self, pre, mu, deviation, error=0.0):
        super().__init__()
        self.pre, self.mu, self.deviation, self.error = pre, mu, deviation, error

    def forward(self, scaled, c_noise, cond):
        if self.pre.kind == 'edm':
            sigma = (c_noise / 250).exp()[:, None, None]
            x = scaled * (sigma**2 + self.pre.sigma_data**2).sqrt()
        elif self.pre.kind == 'flow':
            t = c_noise[:, None, None] / 1000
            sigma, x = t / (1 - t), scaled / (1 - t)
        else:
            sigma = torch.tensor(self.pre.levels)[c_noise.long()][:, None, None]
            x = scaled * (1 + sigma**2).sqrt()
        total = self.deviation**2 + sigma**2
        x0 = (self.deviation**2 * x + sigma**2 * self.mu) / total
        x0 = x0 + self.error * sigma / total.sqrt()
        if self.pre.kind == 'ddpm':
            return (x - x0) / sigma
        if self.pre.kind == 'flow':
            return (scaled - x0) / t
        data = self.pre.sigma_data
        both = sigma**2 + data**2
        return (x0 - data**2 / both * x) * both.sqrt() / (sigma * data)


@pytest.mark.parametrize('kind', ['edm', 'ddpm', 'flow'])
def test_the_denoising_loss_is_least_for_the_posterior_mean(kind):
    pre, rng = precond(kind), np.random.default_rng(0)
    x0 = torch.from_numpy(rng.normal(0.3, 0.5, (20000, 4, 1)).astype(np.float32))
    loss = DenoisingLoss(pre, HOW)

    def value(**changes):
        how = {'mu': 0.3, 'deviation': 0.5} | changes
        return loss(Gaussian(pre, **how), x0, None, np.random.default_rng(1)).item()

    least = value()
    for changes in ({'mu': 0.2}, {'mu': 0.4}, {'deviation': 0.45}, {'deviation': 0.55},
                    {'error': 0.05}, {'error': -0.05}):
        assert value(**changes) > least


@pytest.mark.parametrize('kind', ['edm', 'ddpm', 'flow'])
def test_a_network_of_zero_costs_the_variance_of_its_target(kind):
    pre, rng = precond(kind), np.random.default_rng(0)
    x0 = torch.from_numpy(rng.normal(0, pre.sigma_data, (20000, 4, 1)).astype(np.float32))
    value = DenoisingLoss(pre, HOW)(lambda x, level, cond: 0 * x, x0, None, rng)
    # a flow's target, noise minus data, varies with both
    assert abs(value.item() - {'flow': 2}.get(kind, 1)) < 0.03


class Brightest(torch.nn.Module):
    """Finds the bright pixel, in the coordinates of a spatial softmax: a perfect encoder."""

    def forward(self, images):
        rows, columns = images.shape[-2:]
        at = images.sum(1).flatten(1).argmax(1)
        return torch.stack((2 * (at % columns) / columns - 1, 2 * (at // columns) / rows - 1), -1)


@pytest.mark.parametrize('crop', [None, (10, 14)])
def test_keypoints_move_against_the_shift_of_the_window(crop):
    camera = CameraSpec('front', 20, 24, 2, crop)
    rng = np.random.default_rng(0)
    held_out = np.arange(100) >= 80
    at = rng.integers((8, 10), (12, 14), (100, 2))  # stays in sight under every shift
    images = np.zeros((100, 20, 24, 3), np.uint8)
    images[np.arange(100), at[:, 0], at[:, 1]] = 255
    targets = (2 * at[:, ::-1] / (24, 20) - 1).astype(np.float32)
    cpu = torch.device('cpu')
    objective = KeypointObjective(Brightest(), camera, Whole({'front': images}, cpu), targets,
                                  held_out, 2, cpu)
    for seed in range(5):
        loss = objective.loss(objective.module, np.arange(80), np.random.default_rng(seed))
        assert loss.item() < 1e-4
    assert objective.validate(objective.module) < 1e-4
