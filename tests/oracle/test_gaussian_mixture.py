"""The oracle itself: densities, scores and posteriors against finite differences and brute force."""

from __future__ import annotations

import math

import pytest
import torch
from basis_toy.prior import GaussianMixture, exact_posterior, load
from scipy.stats import multivariate_normal

from basis_cli.operators import Mixture, Unobserved
from basis_cli.plugins import prior_spec


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def pixel(weights, means, stds):
    """A mixture over pictures of one pixel."""
    return GaussianMixture(double(weights), double(means)[:, None], double(stds)[:, None, None] ** 2, (1, 1, 1))


def correlated():
    means = double([[0.1, 0.2, 0.3], [0.9, 0.4, 0.7]])
    roots = torch.randn(2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return GaussianMixture(double([3, 1]), means, roots @ roots.mT + 0.1 * torch.eye(3), (3, 1, 1))


def test_log_prob_is_scipys():
    prior = correlated()
    x = torch.randn(5, 3, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    for sigma in (0, 0.7):
        densities = [
            w * multivariate_normal(mean, covariance + sigma**2 * torch.eye(3)).pdf(x.flatten(1))
            for w, mean, covariance in zip((0.75, 0.25), prior.means, prior.covariances, strict=True)
        ]
        expected = torch.from_numpy(sum(densities)).log()
        torch.testing.assert_close(prior.at(sigma).log_prob(x), expected)


def test_score_is_the_gradient_of_log_prob():
    level = correlated().at(0.3)
    x = torch.randn(6, 3, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(3), requires_grad=True)
    (gradient,) = torch.autograd.grad(level.log_prob(x).sum(), x)
    torch.testing.assert_close(level.score(x), gradient)


def test_far_from_every_mode_the_score_still_points_home():
    level = pixel([0.5, 0.5], [0, 1], [0.01, 0.01]).at(0.01)
    score = level.score(double([1e4, -1e4]).view(2, 1, 1, 1)).flatten()
    torch.testing.assert_close(score, double([1 - 1e4, 1e4]) / 2e-4)


def test_samples_have_the_moments_and_weights(compare, mixture, gaussian):
    generator = torch.Generator().manual_seed(4)
    for prior in (mixture, gaussian, mixture.at(0.2), correlated()):
        assert prior.sample(7, generator).shape == (7, *prior.shape)
        joint = exact_posterior([prior], Unobserved(prior.shape), torch.zeros(0), 1.0)
        compare(prior.sample(20_000, generator)[None], joint).check()


def test_at_is_the_distribution_of_noisy_pictures(compare, mixture):
    generator = torch.Generator().manual_seed(5)
    clean = mixture.sample(20_000, generator)
    noisy = clean + 0.3 * torch.randn(clean.shape, dtype=torch.float64, generator=generator)
    compare(noisy[None], exact_posterior([mixture.at(0.3)], Unobserved(mixture.shape), torch.zeros(0), 1.0)).check()


def test_the_comparison_notices_wrong_samples(compare, mixture):
    posterior = exact_posterior([mixture] * 2, Mixture([0.5, 0.5]), torch.full(mixture.shape, 0.5), 0.05)
    samples = posterior.sample(4000, torch.Generator().manual_seed(6)).transpose(0, 1)
    compare(samples, posterior).check()
    spread = posterior.covariance.diagonal().sqrt().view(2, 1, *mixture.shape)
    middle = samples.mean(1, keepdim=True)
    one_mode = posterior.responsibilities(samples.transpose(0, 1)).argmax(1) == 1
    for wrong, message in [
        (samples + 0.1 * spread, r"mean\["),
        (middle + 1.1 * (samples - middle), r"covariance\["),
        (torch.full_like(samples, math.nan), "mean is not finite"),
    ]:
        with pytest.raises(AssertionError, match=message):
            compare(wrong, posterior).check()
    with pytest.raises(AssertionError, match=r"weights\["):
        compare(samples[:, one_mode], posterior).check(mean=9, covariance=9)


def test_calibration_is_one_for_exact_samples_and_less_for_timid_ones(calibration, mixture):
    truth, first, second = mixture.sample(30_000, torch.Generator().manual_seed(7)).split(10_000)
    assert calibration(torch.stack([first, second]), truth) == pytest.approx(1, abs=0.02)
    middle = mixture.mean.view(mixture.shape)
    timid = torch.stack([middle + (x - middle) / 2 for x in (first, second)])
    assert calibration(timid, truth) < 0.7


@pytest.mark.parametrize("alpha", [[0.3, 0.8], [1.0, -0.5]])
def test_posterior_equals_brute_force(alpha):
    priors = [pixel([0.3, 0.7], [0.2, 0.9], [0.1, 0.2]), pixel([0.6, 0.2, 0.2], [0, 0.5, 1], [0.1, 0.05, 0.2])]
    y, noise_std = 0.4, 0.15
    axis = torch.linspace(-1.5, 2.5, 401, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    log_joint = sum(prior.log_prob(x.view(-1, 1, 1, 1)) for prior, x in zip(priors, grid.T, strict=True))
    log_joint = log_joint - (y - grid @ double(alpha)) ** 2 / (2 * noise_std**2)
    log_evidence = log_joint.logsumexp(0) + 2 * (axis[1] - axis[0]).log()

    posterior = exact_posterior(priors, Mixture(alpha), double([[[y]]]), noise_std)
    assert posterior.shape == (2, 1, 1, 1)
    assert len(posterior.weights) == 6
    got = posterior.log_prob(grid.view(-1, 2, 1, 1, 1))
    near = log_joint > log_joint.max() - 30
    torch.testing.assert_close(got[near], (log_joint - log_evidence)[near], rtol=0, atol=1e-6)
    p = (log_joint - log_joint.logsumexp(0)).exp()
    torch.testing.assert_close(posterior.mean, p @ grid)
    torch.testing.assert_close(posterior.covariance, (grid.T * p) @ grid - torch.outer(p @ grid, p @ grid))


def test_posterior_takes_any_linear_operator(gaussian):
    def left_column(x):  # inpainting: half of the pixels of one picture
        return x[0, ..., :1]

    truth = gaussian.sample(1, torch.Generator().manual_seed(8))
    posterior = exact_posterior([gaussian], left_column, left_column(truth[None])[0], 1e-4)
    known = posterior.mean.view(gaussian.shape)[..., 0]
    torch.testing.assert_close(known, truth[0, ..., 0], rtol=0, atol=1e-3)
    before, after = (m.covariance.diagonal().view(gaussian.shape) for m in (gaussian, posterior))
    assert (after[..., 0] < 1e-7).all()
    assert (after[..., 1] > 1e-3).all()
    assert (after[..., 1] < before[..., 1]).all()


def test_without_observation_the_posterior_is_the_prior(mixture):
    posterior = exact_posterior([mixture], Unobserved(mixture.shape), torch.zeros(0), 0.1)
    assert posterior.shape == (1, *mixture.shape)
    for name in ("weights", "means", "covariances"):
        torch.testing.assert_close(getattr(posterior, name), getattr(mixture, name))


def test_a_hopeless_mode_gets_no_weight_and_no_nan():
    posterior = exact_posterior([pixel([0.5, 0.5], [0, 100], [0.1, 0.1])], Mixture([1]), double([[[0.0]]]), 0.01)
    assert posterior.weights.tolist() == [1, 0]
    x = torch.zeros(2, 1, 1, 1, 1)
    assert torch.isfinite(posterior.score(x)).all()
    assert torch.isfinite(posterior.log_prob(x)).all()


def test_types_follow_the_pictures(mixture):
    for dtype in (torch.float32, torch.float64):
        x = torch.zeros(3, *mixture.shape, dtype=dtype)
        assert mixture.score(x).dtype == mixture.log_prob(x).dtype == dtype
        assert mixture.score(x).shape == x.shape
        assert mixture.log_prob(x).shape == (3,)


@pytest.mark.parametrize(
    ("weights", "means", "covariances", "message"),
    [
        ([1, -1], [[0.0], [0.0]], [[[1.0]], [[1.0]]], "weights must be positive"),
        ([0, 0], [[0.0], [0.0]], [[[1.0]], [[1.0]]], "weights must be positive"),
        ([1], [[0.0]], [[[0.0]]], "positive definite"),
        ([1], [[0.0]], [[[-1.0]]], "positive definite"),
        ([1], [[0.0, 0.0]], [[[1.0]]], "need means"),
        ([1], [[0.0]], [[[1.0]], [[1.0]]], "need means"),
    ],
)
def test_nonsense_is_refused(weights, means, covariances, message):
    with pytest.raises(ValueError, match=message):
        GaussianMixture(double(weights), double(means), double(covariances), (1, 1, 1))


@pytest.mark.parametrize("name", ["toy-gaussian", "toy-mixture"])
def test_registered_priors_load_and_their_pictures_are_mostly_in_range(name):
    spec = prior_spec(name)
    prior = load(spec, None, torch.device("cpu"))
    assert prior.shape == spec.shape
    assert prior.sigmas is None
    x = prior.sample(500, torch.Generator().manual_seed(9))
    assert ((x > 0) & (x < 1)).double().mean() > 0.95
    neighbours = (x[..., 1:] - x[..., :-1]).square().mean() / (2 * x.var())
    assert neighbours < 0.5  # pictures, not noise


def test_the_toy_mixture_has_four_distinct_pictures():
    prior = load(prior_spec("toy-mixture"), None, torch.device("cpu"))
    assert prior.weights.tolist() == pytest.approx([0.4, 0.3, 0.2, 0.1])
    distances = torch.cdist(prior.means, prior.means) + 100 * torch.eye(4)
    assert distances.min() > 20 * 0.05
    assert prior.responsibilities(prior.means.view(4, *prior.shape)).argmax(1).tolist() == [0, 1, 2, 3]
