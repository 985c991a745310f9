"""The samplers that are not exact: what they draw from, in closed form, and how far that is from the posterior.

For Gaussian priors every step of ``project`` is linear, so the law of its samples is exact: a mean and a covariance.
"""

from __future__ import annotations

import pytest
import torch
from basis_toy.prior import GaussianMixture, exact_posterior

from basis_cli import samplers
from basis_cli.operators import Mixture, Unobserved

CHAINS = 2000
Y = torch.tensor([0.7, 0.6, 0.4, 0.3]).view(1, 2, 2)


def law_of_project(prior, alpha, y, sigmas):
    """Mean and covariance of the stacked components after ``sigmas``, from the definition, in float64."""
    d = y.numel()
    a = torch.kron(torch.tensor(alpha).double()[None], torch.eye(d).double())  # A as a matrix
    pinv = torch.linalg.pinv(a)
    observed = y.double().flatten()
    gray = torch.full((len(pinv),), 0.5).double()
    mean, covariance = gray + pinv @ (observed - a @ gray), torch.zeros(len(pinv), len(pinv)).double()
    for sigma in sigmas:
        shrink = prior.covariances[0] @ torch.linalg.inv(prior.covariances[0] + sigma**2 * torch.eye(d))
        gain = torch.kron(torch.eye(len(alpha)).double(), shrink)
        centre = prior.means[0].repeat(len(alpha))
        step = (torch.eye(len(pinv)) - pinv @ a) @ gain
        mean = step @ (mean - centre) + centre + pinv @ (observed - a @ centre)
        covariance = step @ (covariance + sigma**2 * torch.eye(len(pinv))) @ step.T
    return mean, covariance


@pytest.mark.parametrize("alpha", [[0.5, 0.5], [0.8, -0.3], [1.0, 1.0, 1.0]])
def test_project_follows_its_law(gaussian, alpha):
    sigmas = (1.0, 0.5, 0.2)
    y = Y.expand(CHAINS, *Y.shape)
    x = samplers.project([gaussian] * len(alpha), Mixture(alpha), y, seeds=range(CHAINS), sigmas=sigmas, ladder=0)
    mean, covariance = law_of_project(gaussian, alpha, Y, sigmas)
    drawn = x.double().transpose(0, 1).flatten(1)
    error = covariance.diagonal().sqrt() / CHAINS**0.5
    assert ((drawn.mean(0) - mean).abs() < 4 * error + 1e-6).all()
    assert torch.allclose(drawn.T.cov(), covariance, atol=6 * float(covariance.max()) / CHAINS**0.5)


def test_project_reproduces_the_mixture(mixture):
    operator, y = Mixture([0.7, 0.3]), torch.rand(50, 1, 2, 2)
    x = samplers.project([mixture] * 2, operator, y, seeds=range(50))
    assert (operator(x) - y).abs().max() < 1e-5


def test_project_has_the_posteriors_mean_and_less_than_its_spread(gaussian):
    """What its documentation says. For a Gaussian prior the mean is exact once the ladder ends low enough."""
    alpha, sigmas = [0.8, 0.4], samplers.karras(200)
    posterior = exact_posterior([gaussian] * 2, Mixture(alpha), Y, 1e-3)
    mean, covariance = law_of_project(gaussian, alpha, Y, sigmas)
    spread = posterior.covariance.diagonal().sqrt()
    assert ((mean - posterior.mean).abs() < 0.15 * spread).all()
    ratio = (covariance.diagonal().sum() / posterior.covariance.diagonal().sum()).sqrt()
    assert 0.3 < ratio < 0.9


def test_project_evaluates_once_a_level(gaussian):
    calls = []

    class Counted:
        shape, sigmas = gaussian.shape, None

        def at(self, sigma):
            calls.append(sigma)
            return gaussian.at(sigma)

    counted = Counted()
    seen = []
    samplers.project(
        [counted] * 2,
        Mixture([1, 1]),
        torch.zeros(1, 1, 2, 2),
        seeds=[0],
        sigmas=samplers.karras(7),
        watch=lambda progress: seen.append((progress.step, progress.total)),
    )
    assert calls == pytest.approx(samplers.karras(7))
    assert seen == [(step, 7) for step in range(7)]


def test_project_without_measurement_draws_from_the_denoiser(gaussian):
    x = samplers.project([gaussian], Unobserved(gaussian.shape), torch.zeros(500, 0), seeds=range(500))
    assert ((x.mean((0, 1)).flatten() - gaussian.means[0]).abs() < 0.06).all()


def test_ascent_climbs_to_the_mode(gaussian):
    operator, sigma = Mixture([0.5, 0.5]), 0.2
    priors = [gaussian] * 2
    y = Y.expand(3, *Y.shape)
    smoothed: list[GaussianMixture] = [gaussian.at(sigma)] * 2
    posterior = exact_posterior(smoothed, operator, Y, sigma * operator.scale)
    x = samplers.ascent(priors, operator, y, seeds=range(3), sigmas=[sigma], steps=2000, step_size=0.01)
    top = posterior.mean.view(2, 1, 1, 2, 2)
    assert torch.allclose(x.double(), top.expand(2, 3, 1, 2, 2), atol=1e-3)
