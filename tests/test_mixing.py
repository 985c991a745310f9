"""Ways of laying pictures over each other and of storing that: beliefs updated, against quadrature."""

from __future__ import annotations

import math

import pytest
import torch
from basis_toy.prior import GaussianMixture, soft_blobs

import basis_cli
from basis_cli import operators, samplers
from basis_cli.operators import Composed, Maximum, Mixture, Mixtures, Quantized, Saturated, Screen
from basis_cli.priors.wrapper import NegativePrior, wrapped

MEAN, STD = torch.tensor([0.6, 0.3]), torch.tensor([0.3, 0.2])


def beliefs():
    return MEAN.view(2, 1, 1, 1, 1), STD.square().view(2, 1, 1, 1, 1)


def by_quadrature(density, low=-1.0, high=2.0, points=3001):
    """Mean and variance of both values under the beliefs times ``density(x1, x2)``."""
    grid = torch.linspace(low, high, points, dtype=torch.float64)
    x = torch.stack(torch.meshgrid(grid, grid, indexing="ij"))
    log = -((x - MEAN.view(2, 1, 1)) ** 2 / (2 * STD.view(2, 1, 1) ** 2)).sum(0)
    weight = log.exp() * density(*x)
    weight = weight / weight.sum()
    mean = (weight * x).sum((1, 2))
    return mean, (weight * (x - mean.view(2, 1, 1)) ** 2).sum((1, 2))


def near(std):
    """A narrow Gaussian about 0."""
    return lambda off: (-(off**2) / (2 * std**2)).exp()


CASES = {
    "sum": (Mixture([1, 1]), 0.7, 0.02, lambda a, b: near(0.02)(a + b - 0.7)),
    "noisy": (Mixture([0.8, 0.2]), 0.7, 0.2, lambda a, b: near(0.2)(0.8 * a + 0.2 * b - 0.7)),
    "cut": (Composed(Saturated(0), Mixture([1, 1])), 1.0, 0.0, lambda a, b: (a + b >= 1).double()),
    "coarse": (
        Composed(Quantized(2), Mixture([1, 1])),
        2 / 3,
        0.0,
        lambda a, b: ((a + b - 2 / 3).abs() < 1 / 6).double(),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_beliefs_are_updated_exactly(name):
    operator, y, noise, density = CASES[name]
    mean, variance = (t.flatten() for t in operator.update(*beliefs(), torch.full((1, 1, 1, 1), y), noise))
    exact_mean, exact_variance = by_quadrature(density)
    torch.testing.assert_close(mean.double(), exact_mean, atol=2e-3, rtol=0)
    torch.testing.assert_close(variance.double(), exact_variance, atol=5e-4, rtol=0.02)


def test_of_a_maximum_one_picture_is_y_and_the_others_are_below():
    mean, variance = (t.flatten() for t in Maximum(2).update(*beliefs(), torch.full((1, 1, 1, 1), 0.7)))
    y, grid = 0.7, torch.linspace(0, 0.7, 20001, dtype=torch.float64)

    def normal(x, i):
        return (-((x - MEAN[i]) ** 2) / (2 * STD[i] ** 2)).exp() / STD[i]

    first = normal(torch.tensor(y), 0) * normal(torch.linspace(-3, y, 20001), 1).sum() * (3 + y)
    second = normal(torch.tensor(y), 1) * normal(torch.linspace(-3, y, 20001), 0).sum() * (3 + y)
    share = first / (first + second)
    below = [(normal(grid, i) * grid).sum() / normal(grid, i).sum() for i in range(2)]
    assert mean[0] == pytest.approx(float(share * y + (1 - share) * below[0]), abs=2e-3)
    assert mean[1] == pytest.approx(float((1 - share) * y + share * below[1]), abs=2e-3)
    assert (variance > 0).all()
    assert (variance < STD.square()).all()


def test_several_observations_are_one_linear_system():
    matrix = [[0.65, 0.35], [0.4, 0.6], [1.0, 0.0]]
    operator, noise = Mixtures(matrix), 0.1
    x = torch.rand(2, 3, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    y = operator(x)
    assert y.shape == (3, 9, 4, 4)
    torch.testing.assert_close(operator.pinv(y), x)
    mean, variance = beliefs()
    a, prior = torch.tensor(matrix), torch.diag(STD.square())
    exact = torch.linalg.inv(torch.linalg.inv(prior) + a.T @ a / noise**2)
    found, left = operator.update(mean.expand_as(x), variance, y, noise)
    torch.testing.assert_close(left.flatten(), exact.diagonal(), rtol=1e-2, atol=0)
    seen = y.unflatten(1, (3, 3))[1, :, 2, 0, 0]
    torch.testing.assert_close(
        found[:, 1, 2, 0, 0], MEAN + exact @ a.T @ (seen - a @ MEAN) / noise**2, rtol=1e-2, atol=1e-3
    )


@pytest.mark.parametrize(
    "operator",
    [
        Composed(Saturated(), Mixture([1, 1])),
        Composed(Quantized(), Mixture([0.7, 0.3])),
        Maximum(2),
        Composed(operators.Jpeg(operators.standard_tables(50)[:1], (8, 8)), Mixture([0.5, 0.5])),
    ],
)
def test_projected_pictures_explain_what_was_seen(operator):
    generator = torch.Generator().manual_seed(0)
    x, other = (torch.rand(2, 3, 1, 8, 8, generator=generator) for _ in range(2))
    y = operator(x)
    moved = other
    for _ in range(5):
        moved = operator.project(moved, y)
    assert (operator(moved) - y).abs().max() < 0.02
    torch.testing.assert_close(operator.project(moved, y), moved, atol=5e-3, rtol=0)
    assert operators.misfit(operator, x, y).abs().max() < 0.02


def test_screen_is_light_on_light():
    operator, x = Screen(3), torch.rand(3, 2, 1, 4, 4)
    assert torch.allclose(operator(x), 1 - (1 - x[0]) * (1 - x[1]) * (1 - x[2]))
    derivative = operators.linearized(operators.Forward(operator, 3), x)
    v = torch.rand_like(x)
    torch.testing.assert_close((operator.coefficients(x) * v).sum(0), derivative(v), atol=0.02, rtol=0)
    moved = torch.rand_like(x)
    for _ in range(20):
        moved = operator.project(moved, operator(x)).clamp(0, 1)
    assert (operator(moved) - operator(x)).abs().mean() < 0.01


@pytest.mark.parametrize(
    ("mean", "low", "high"), [(0.0, -1, 2), (0.0, 5, 6), (0.0, -math.inf, -3), (0.3, 1, math.inf), (0.0, 9, 9.01)]
)
def test_truncated_gaussians(mean, low, high):
    from scipy.stats import truncnorm

    found = operators.base.truncated(*(torch.tensor([float(v)]) for v in (mean, 0.49, low, high)))
    exact = truncnorm((low - mean) / 0.7, (high - mean) / 0.7, loc=mean, scale=0.7)
    assert float(found[0]) == pytest.approx(exact.mean(), abs=6e-3)
    assert float(found[1]) == pytest.approx(exact.var(), abs=1e-4)


def test_the_weak_component_has_more_noise_so_that_both_bring_as_much_into_the_mixture():
    seen = []

    class Recorder:
        shape, sigmas = (1, 2, 2), None

        def at(self, sigma):
            seen.append(sigma)
            return self

        def score(self, x):
            return torch.zeros_like(x)

    samplers.project(
        [Recorder(), Recorder()], Mixture([0.8, 0.2]), torch.rand(1, 1, 2, 2), seeds=[0], sigmas=[1.0, 0.5], ladder=1
    )
    assert seen == pytest.approx([0.625, 2.5, 0.3125, 1.25])


@pytest.mark.parametrize("name", ["project", "conjugate", "ep"])
def test_cut_sums_of_gaussians_against_rejection(name):
    """Where ``y`` is white nothing but ``x1 + x2 >= 1`` is known: the exact posterior's mean, by rejection."""
    prior = soft_blobs((1, 2, 2), std=0.2, length=1.5)
    generator = torch.Generator().manual_seed(0)
    x = torch.stack([prior.sample(100_000, generator) for _ in range(2)])
    exact = x[:, (x.sum(0) >= 1.2).flatten(1).all(1)].mean()
    operator = Composed(Saturated(), Mixture([1 / 1.2, 1 / 1.2]))
    y = torch.ones(500, 1, 2, 2)
    drawn = getattr(samplers, name)([prior, prior], operator, y, seeds=range(500), sigmas=samplers.karras(30))
    assert operators.misfit(operator, drawn, y).abs().max() < 1e-3
    assert float(drawn.mean()) == pytest.approx(float(exact), abs=0.04)
    equality = getattr(samplers, name)([prior, prior], operator.inner, y, seeds=range(500), sigmas=samplers.karras(30))
    assert abs(float(equality.mean()) - float(exact)) > abs(float(drawn.mean()) - float(exact))


def test_a_prior_of_negatives_scores_them():
    prior = soft_blobs((1, 2, 2), std=0.2)
    (negative,) = wrapped([prior], NegativePrior)
    level, x = negative.at(0.3), torch.rand(5, 1, 2, 2).requires_grad_()
    (gradient,) = torch.autograd.grad(level.log_prob(x).sum(), x)
    torch.testing.assert_close(level.score(x), gradient, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(level.log_prob(1 - x), prior.at(0.3).log_prob(x))


def test_unknown_coefficients_are_fitted_exactly_where_the_pictures_are_known():
    x = torch.rand(3, 4, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    alpha = torch.tensor([[0.5, 0.3, 0.2], [0.2, 0.7, 0.1], [1 / 3, 1 / 3, 1 / 3], [0.1, 0.3, 0.6]]).T
    y = (alpha.view(3, 4, 1, 1, 1) * x).sum(0)
    start = operators.Unknown([1 / 3] * 3)
    torch.testing.assert_close(operators.estimated(start.fitted(x, y)), alpha, atol=2e-3, rtol=0)
    half = start.fitted(x, y, 0.5)
    torch.testing.assert_close(operators.estimated(half), (alpha + 1 / 3) / 2, atol=2e-3, rtol=0)
    composed = operators.fitted(Composed(Quantized(), start), x, (y * 255).round() / 255)
    torch.testing.assert_close(operators.estimated(composed), alpha, atol=2e-2, rtol=0)
    assert operators.fitted(Mixture([0.5, 0.5]), x, y).alpha == (0.5, 0.5)


def test_coefficients_are_estimated_with_the_components():
    """Two sharp pictures that one prior knows, so that the mixture tells the coefficients."""
    means = torch.tensor([[0.9, 0.9, 0.1, 0.1], [0.1, 0.9, 0.1, 0.9]])
    prior = GaussianMixture(torch.tensor([0.5, 0.5]), means, 1e-3 * torch.eye(4).expand(2, 4, 4), (1, 2, 2))
    y = torch.stack([a * means[0] + (1 - a) * means[1] for a in (0.7, 0.5, 0.8)]).view(3, 1, 2, 2)
    result = basis_cli.separate(y, prior=prior, alpha="auto")
    found = result.alpha[:, :, 0].sort(0, descending=True).values[0]
    torch.testing.assert_close(found, torch.tensor([0.7, 0.5, 0.8]), atol=0.1, rtol=0)
    assert result.residual.max() < 1
    assert result.of(1).alpha.shape == (2, 1, 1)
