"""Ways of laying pictures over each other and of storing that: beliefs updated, against quadrature."""

from __future__ import annotations

import math

import pytest
import torch
from basis_toy.prior import GaussianMixture, soft_blobs

import basis_cli
from basis_cli import operators, samplers
from basis_cli.errors import UsageError
from basis_cli.operators import Composed, Maximum, Mixture, Mixtures, Quantized, Saturated, Screen, UnknownMixtures
from basis_cli.posterior.surprise import IMPROBABLE, surprise
from basis_cli.priors.wrapper import AlikePrior, NegativePrior, wrapped
from basis_cli.tasks.separation import Separate

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


@pytest.mark.parametrize("name", ["project", "ep"])
def test_what_jpeg_rounded_is_taken_out_of_mixtures(name):
    """The mixture of the answers is nearer to the true one than what the last level leaves of the file's rounding."""
    prior, seen = soft_blobs((1, 8, 8), std=0.2), []
    truth = torch.stack([prior.sample(50, torch.Generator().manual_seed(i)) for i in range(2)]).float().clamp(0, 1)
    operator = Composed(operators.Jpeg(operators.standard_tables(75)[:1], (8, 8)), Mixture([0.5, 0.5]))
    draw, y = getattr(samplers, name), operator(truth)
    x = draw([prior] * 2, operator, y, seeds=range(50), watch=lambda progress: seen.append(progress.x))
    before, after = ((operator.inner(each - truth)).square().mean() for each in (seen[-1], x))
    assert after < 0.97 * before


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


def test_edges_tell_the_coefficients_of_several_observations():
    """Pictures whose edges seldom meet: two squares each, apart but for one corner."""
    x = torch.zeros(2, 2, 1, 16, 16)
    x[0, :, 0, 2:8, 3:9], x[0, 1, 0, 10:14, 2:5] = 0.9, 0.6
    x[1, :, 0, 6:13, 7:14] = 0.8
    alpha = torch.tensor([[0.65, 0.35], [0.4, 0.6]])
    y = Mixtures(alpha.tolist())(x)
    begun = operators.begun(UnknownMixtures([[0.5, 0.5]] * 2), y)
    for rows in begun.rows:
        rows = rows if rows[0, 0] > 0.5 else rows.flip(1)
        torch.testing.assert_close(rows, alpha, atol=0.02, rtol=0)
    torch.testing.assert_close(operators.fitted(begun, x, y)(x), y, atol=0.02, rtol=0)
    prior = soft_blobs((1, 16, 16), std=0.2, length=1.5)
    sampling = basis_cli.Sampling(levels=5)
    result = basis_cli.separate(list(y.split(1, dim=1)), prior=prior, together=True, alpha="auto", sampling=sampling)
    assert result.alpha.shape == (2, 2, 1, 2)
    assert result.residual.max() < 2
    assert operators.estimated(begun).shape == (2, 2, 2)


def test_several_observations_give_the_components_themselves():
    prior = soft_blobs((1, 6, 6), std=0.2, length=1.5)
    x = torch.stack([prior.sample(3, torch.Generator().manual_seed(i)) for i in range(2)]).clamp(0, 1)
    alpha = [[0.65, 0.35], [0.4, 0.6]]
    y = Mixtures(alpha)(x)
    given = {"prior": prior, "together": True, "references": list(x), "sampling": basis_cli.Sampling(levels=5)}
    result = basis_cli.separate(list(y.split(1, dim=1)), alpha=alpha, **given)
    assert result.psnr.min() > 45
    assert result.components.shape == (2, 3, 1, 1, 6, 6)
    with pytest.raises(UsageError, match="3 and 3 coefficients"):
        basis_cli.separate(list(y.split(1, dim=1)), alpha=[[1, 2, 3], [3, 2, 1]], **given)


def test_a_guide_is_a_noisy_observation():
    """Exactly: the score is the gradient of ``p_sigma(x | g)``, whose mean is known for a Gaussian prior."""
    prior, std = soft_blobs((1, 2, 2), std=0.2, length=1.5), 0.1
    guide, x = torch.rand(1, 2, 2), torch.rand(5, 1, 2, 2).requires_grad_()
    alike = AlikePrior(prior, guide, std)
    level = alike.at(0.3)
    (gradient,) = torch.autograd.grad(level.log_prob(x).sum(), x)
    torch.testing.assert_close(level.score(x), gradient, rtol=1e-3, atol=1e-3)
    far = alike.at(1e3)
    mean = x.detach() + 1e6 * far.score(x.detach())
    exact = guide + std**2 * prior.at(std).score(guide[None])
    torch.testing.assert_close(mean, exact.expand_as(mean), atol=1e-2, rtol=0)


def test_pictures_that_a_prior_does_not_know_are_surprising():
    means = torch.tensor([[0.9, 0.9, 0.1, 0.1], [0.1, 0.9, 0.1, 0.9]])
    prior = GaussianMixture(torch.tensor([0.5, 0.5]), means, 1e-3 * torch.eye(4).expand(2, 4, 4), (1, 2, 2))
    known, strange = prior.sample(200, torch.Generator().manual_seed(0)), 1 - means.view(2, 1, 2, 2)
    assert float(surprise([prior], known[None]).mean()) < IMPROBABLE
    assert float(surprise([prior], strange[None]).min()) > 2 * IMPROBABLE
    assert float(surprise([prior], 1 - strange[None]).max()) < IMPROBABLE


def test_the_likely_cause_of_an_improbable_answer():
    means = torch.tensor([[0.9, 0.9, 0.1, 0.1], [0.1, 0.9, 0.1, 0.9]])
    prior = GaussianMixture(torch.tensor([0.5, 0.5]), means, 1e-3 * torch.eye(4).expand(2, 4, 4), (1, 2, 2))
    negative = 1 - means.mean(0).view(1, 1, 2, 2)
    result = basis_cli.separate(negative, prior=prior)
    before = float(result.surprise.mean())
    assert before > IMPROBABLE
    task, sampling = Separate(), basis_cli.Sampling(seed=1)
    assert task.cause([prior] * 2, negative, before, sampling, basis_cli.Compute()) == "--invert"
    assert task.cause([prior] * 2, negative, -10.0, sampling, basis_cli.Compute()) is None  # nothing to explain


@pytest.mark.parametrize("std", [0.0, 0.05, 0.1])
@pytest.mark.parametrize("ground", [0.0, 0.5, 1.0])
def test_noise_is_measured(std, ground):
    generator = torch.Generator().manual_seed(0)
    picture = torch.full((1, 40, 40), ground)
    picture[:, 10:20, 10:30] = 0.7
    noisy = picture + std * torch.randn(picture.shape, generator=generator)
    noisy = (noisy.clamp(0, 1) * 255).round() / 255
    assert operators.noise_std(noisy) == pytest.approx(std, rel=0.2)
    holes = noisy.clone()
    holes[:, :, :15] = math.nan
    assert operators.noise_std(holes) == pytest.approx(std, rel=0.25)
    assert operators.noise_std(torch.full((1, 3, 3), 0.5)) == 0


def test_noise_measured_in_each_picture_is_that_of_its_answer():
    prior = soft_blobs((1, 16, 16), std=0.2, length=4)
    x = prior.sample(2, torch.Generator().manual_seed(0)).clamp(0.2, 0.8)
    x[1] += 0.1 * torch.randn(1, 16, 16, generator=torch.Generator().manual_seed(1))
    auto = basis_cli.Sampling(noise_std="auto", levels=4)
    result = basis_cli.separate(x.clamp(0, 1), prior=prior, sampling=auto)
    std = auto.measured(x[1].clamp(0, 1)).noise_std
    assert std == pytest.approx(0.1, rel=0.3)
    told = basis_cli.separate(x[1:].clamp(0, 1), prior=prior, sampling=basis_cli.Sampling(noise_std=std, levels=4))
    assert torch.equal(result.components[:, 1], told.components[:, 0])
    assert auto.measured(x[0]).noise_std is None
    with pytest.raises(UsageError, match="auto"):
        basis_cli.Sampling(noise_std="much").measured(x[0])


def test_the_time_for_unknown_coefficients_counts_all_chains():
    posterior = Separate(alpha="auto").posterior([soft_blobs((1, 4, 4))] * 2, basis_cli.Sampling(levels=2))
    x = posterior.sample(torch.rand(2, 1, 4, 4), [1, 2])
    assert posterior.evaluations(2) == posterior.chains * 2 * 2
    assert posterior.spread([1, 2]).shape == (2,)
    assert torch.isfinite(x).all()
