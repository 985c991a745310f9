"""Pictures that were out of focus when they were laid over each other, against scipy's filter and dense matrices."""

from __future__ import annotations

import pytest
import torch
from basis_toy.prior import exact_posterior, soft_blobs
from scipy.ndimage import gaussian_filter

import basis_cli
from basis_cli import samplers
from basis_cli.errors import UsageError
from basis_cli.operators import Blurred, Composed, LinearOperator, Mixture, Saturated, Unknown, Updating, fitted

SHAPE = (1, 6, 8)
OPERATOR = Blurred(Mixture([0.8, 0.5]), [0, 1.5])


def draw(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dense(operator, shape=SHAPE):
    """``A`` as a matrix, pictures of ``operator.k`` times ``shape`` to one."""
    units = torch.eye(operator.k * torch.Size(shape).numel(), dtype=torch.float64)
    return operator(units.view(len(units), operator.k, *shape).transpose(0, 1)).flatten(1).T


def test_a_blur_is_scipys_gaussian_filter_of_the_reflected_picture():
    x = draw(2, 3, 1, 16, 24)
    expected = [0.8 * x[0, i, 0] + 0.5 * torch.tensor(gaussian_filter(x[1, i, 0], 1.5, truncate=8)) for i in range(3)]
    torch.testing.assert_close(OPERATOR(x)[:, 0], torch.stack(expected), atol=1e-4, rtol=0)


@pytest.mark.parametrize("stds", [[0, 1.5], [0.7, 1.5], [0, 0]])
def test_it_is_linear_with_its_adjoint_and_its_nearest_solution(stds):
    operator = Blurred(Mixture([0.8, 0.5]), stds)
    assert isinstance(operator, LinearOperator)
    assert isinstance(operator, Updating)
    x, other = draw(2, 4, *SHAPE), draw(2, 4, *SHAPE, seed=1)
    y, matrix = operator(other), dense(operator)
    torch.testing.assert_close(operator.adjoint(y).transpose(0, 1).flatten(1), y.flatten(1) @ matrix)
    if 0 in stds:  # else frequencies that are hardly seen are left alone
        inverse = torch.linalg.pinv(matrix)
        torch.testing.assert_close(operator.pinv(y).transpose(0, 1).flatten(1), y.flatten(1) @ inverse.T)
        torch.testing.assert_close(operator(operator.project(x, y)), y)


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_beliefs_are_updated_as_dense_matrices_say(noise):
    matrix, mean, y = dense(OPERATOR), draw(2, 1, *SHAPE), draw(1, *SHAPE, seed=2)
    variance = torch.tensor([0.09, 0.25], dtype=torch.float64).view(2, 1, 1, 1, 1)
    found, left = OPERATOR.update(mean, variance, y, noise)
    prior = torch.diag(variance.expand_as(mean).flatten())
    spread = matrix @ prior @ matrix.T + noise**2 * torch.eye(len(matrix))
    gain = prior @ matrix.T @ torch.linalg.inv(spread)
    exact = mean.flatten() + gain @ (y.flatten() - matrix @ mean.flatten())
    torch.testing.assert_close(found.flatten(), exact, atol=1e-4, rtol=0)
    after = (prior - gain @ matrix @ prior).diagonal().view(2, -1).mean(1)
    torch.testing.assert_close(left.flatten(), after, atol=1e-4, rtol=0)


def test_without_a_blur_it_is_the_mixture():
    plain, mean, y = Mixture([0.8, 0.5]), draw(2, 3, *SHAPE), draw(3, *SHAPE, seed=1)
    same, variance = Blurred(plain, [0, 0]), torch.tensor([0.1, 0.2]).double().view(2, 1, 1, 1, 1)
    for operator, other in ((same, plain), (Composed(Saturated(), same), Composed(Saturated(), plain))):
        seen = operator(1.5 * mean) if operator is not same else y
        for ours, theirs in zip(operator.update(mean, variance, seen), other.update(mean, variance, seen), strict=True):
            shown = theirs if ours.shape == theirs.shape else theirs.mean((2, 3, 4), keepdim=True)
            torch.testing.assert_close(ours, shown, atol=2e-3, rtol=0)


def test_coefficients_are_fitted_to_blurred_pictures():
    x = draw(2, 3, 1, 16, 16)
    y = Blurred(Mixture([0.7, 0.3]), [0, 2])(x)
    found = fitted(Blurred(Unknown([0.5, 0.5]), [0, 2]), x, y)
    torch.testing.assert_close(found.mixture.each[:, :, 0, 0, 0], torch.tensor([[0.7], [0.3]]).double().expand(2, 3))


def test_each_has_a_blur():
    with pytest.raises(UsageError, match="1 blurs for 2"):
        Blurred(Mixture([1, 1]), [2])
    for bad in (-1, float("nan")):
        with pytest.raises(UsageError, match="0 or more"):
            Blurred(Mixture([1, 1]), [0, bad])


def test_ep_is_for_pictures_in_focus():
    with pytest.raises(UsageError, match="in focus"):
        samplers.ep([soft_blobs(SHAPE)] * 2, OPERATOR, torch.rand(1, *SHAPE), seeds=[0])


def test_project_fits_coefficients_to_blurred_components():
    prior = soft_blobs((1, 16, 16), std=0.25, length=2)
    generator = torch.Generator().manual_seed(0)
    sharp, other = (prior.sample(6, generator).float().clamp(0.05, 0.95) for _ in range(2))
    y = Blurred(Mixture([0.7, 0.3]), [0, 2])(torch.stack([sharp, other]))
    found = basis_cli.separate(y, prior=prior, blur=[0, 2], alpha="auto", sampling=basis_cli.Sampling(levels=10))
    assert found.settings["sampler"] == "project"
    assert found.alpha.shape == (2, 6, 1)
    assert (found.residual < 3).all()
    known = basis_cli.separate(y, prior=prior, blur=[0, 2], alpha=[0.7, 0.3])
    assert known.psnr is None
    assert (known.residual < 3).all()


@pytest.mark.parametrize("sampler", ["langevin", "mmps", "project", "conjugate"])
def test_the_mean_of_samples_is_the_posteriors(sampler):
    """Of a Gaussian prior, where the posterior is exact; and Langevin's steps and mmps have its spread too."""
    shape, noise, chains = (1, 4, 4), 0.05, 400
    prior, operator = soft_blobs(shape, std=0.3, length=1.5), Blurred(Mixture([0.8, 0.4]), [0, 1.0])
    y = operator(draw(2, 1, *shape).float())[0]
    noisy = sampler != "langevin"
    aim = prior if noisy else prior.at(0.1)
    exact = exact_posterior([aim] * 2, operator, y, noise if noisy else 0.1 * operator.scale)
    options = {"noise_std": noise} if noisy else {"sigmas": (0.6, 0.25, 0.1), "steps": 150, "step_size": 2e-3}
    x = getattr(samplers, sampler)([prior] * 2, operator, y.expand(chains, *shape), seeds=range(chains), **options)
    drawn = x.double().transpose(0, 1).flatten(1)
    variance = exact.covariance.diagonal()
    error = ((drawn.mean(0) - exact.mean).square() / variance).mean().sqrt()
    assert error < 0.2, error
    if sampler in ("langevin", "mmps"):
        assert 0.85 < (drawn.var(0).sum() / variance.sum()).sqrt() < 1.1


def test_photographs_of_which_one_is_faint_begin_with_less_noise():
    prior = soft_blobs((3, 8, 8), std=0.25, length=2)
    y = torch.rand(1, 3, 8, 8)
    found = [
        basis_cli.separate(y, prior=prior, alpha=alpha).settings["sigma_max"] for alpha in ([0.7, 0.3], [0.5, 0.5])
    ]
    assert found == pytest.approx([0.3, 1.3])
    gray = soft_blobs((1, 8, 8), std=0.25, length=2)
    assert basis_cli.separate(y[:, :1], prior=gray, alpha=[0.7, 0.3]).settings["sigma_max"] == 1.3
