"""``conjugate``, ``ep`` and ``mmps`` against the exact posterior: their limits, and the bias of each, measured."""

from __future__ import annotations

import pytest
import torch
from basis_toy.prior import exact_posterior, soft_blobs

from basis_cli import samplers
from basis_cli.errors import UsageError
from basis_cli.operators import Mixture, Unobserved

CHAINS = 1500
NOISE = 0.05
Y = torch.tensor([0.7, 0.6, 0.4, 0.3]).view(1, 2, 2)


def spread_and_error(sampler, prior, alpha=(0.8, 0.4), **options):
    """Of many samples for one noisy mixture: standard deviation, and distance of the mean, over the exact posterior's.

    Both in units of the exact standard deviation, root mean square over the pixels.
    """
    operator = Mixture(list(alpha))
    exact = exact_posterior([prior] * len(alpha), operator, Y, NOISE)
    x = sampler(
        [prior] * len(alpha),
        operator,
        Y.expand(CHAINS, *Y.shape),
        seeds=range(CHAINS),
        noise_std=NOISE,
        **options,
    )
    drawn = x.double().transpose(0, 1).flatten(1)
    variance = exact.covariance.diagonal()
    spread = (drawn.var(0).sum() / variance.sum()).sqrt()
    error = ((drawn.mean(0) - exact.mean).square() / variance).mean().sqrt()
    return float(spread), float(error)


@pytest.mark.parametrize("levels", [50, 300])
@pytest.mark.parametrize("name", ["conjugate", "ep"])
def test_full_renoising_has_the_mean_but_too_little_spread(gaussian, name, levels):
    run = {"sigmas": samplers.karras(levels), "overrelaxation": 0.0}
    spread, error = spread_and_error(getattr(samplers, name), gaussian, **run)
    assert 0.4 < spread < 0.85  # more levels do not help
    assert error < 0.2


@pytest.mark.parametrize("name", ["conjugate", "ep"])
def test_overrelaxation_keeps_the_mean_and_narrows_the_spread(gaussian, name):
    run = {"sigmas": samplers.karras(50)}
    ends = [spread_and_error(getattr(samplers, name), gaussian, overrelaxation=w, **run) for w in (0.0, 0.5, 0.9)]
    assert ends[0][0] > ends[1][0] > ends[2][0] > 0.1
    assert max(error for _, error in ends) < 0.2


@pytest.mark.parametrize("overrelaxation", [-1.5, 1.5, float("nan")])
def test_overrelaxation_is_a_share(gaussian, overrelaxation):
    with pytest.raises(UsageError, match="overrelaxation"):
        spread_and_error(samplers.conjugate, gaussian, overrelaxation=overrelaxation)


def test_mmps_approaches_the_posterior_as_levels_grow(gaussian):
    runs = [spread_and_error(samplers.mmps, gaussian, sigmas=samplers.karras(levels)) for levels in (20, 300)]
    (few, _), (many, error) = runs
    assert 0.75 < few < many
    assert many == pytest.approx(1, abs=0.05)
    assert error < 0.1


def test_mmps_knows_the_uncertainty_of_each_component():
    """Two priors of different width: what one number for both cannot say."""
    wide, narrow = soft_blobs((1, 2, 2), std=0.3, length=1.5), soft_blobs((1, 2, 2), std=0.05, length=1.5)
    priors, operator = [wide, narrow], Mixture([0.5, 0.5])
    exact = exact_posterior(priors, operator, Y, NOISE)
    y = Y.expand(CHAINS, *Y.shape)
    x = samplers.mmps(
        priors, operator, y, seeds=range(CHAINS), sigmas=samplers.karras(200, low=0.01), noise_std=NOISE, cg_steps=4
    )
    drawn = x.double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(drawn.std(0), exact.covariance.diagonal().sqrt(), rtol=0.12, atol=0)
    assert (((drawn.mean(0) - exact.mean) / drawn.std(0)).abs() < 0.15).all()


def test_mmps_is_calibrated_over_many_observations(gaussian, mixture, calibration):
    generator = torch.Generator().manual_seed(0)
    priors, operator = [gaussian, mixture], Mixture([0.5, 0.5])
    truth = torch.stack([prior.sample(400, generator) for prior in priors])
    y = operator(truth)
    y = (y + NOISE * torch.randn(y.shape, dtype=y.dtype, generator=generator)).float()
    run = {"noise_std": NOISE, "sigmas": samplers.karras(50)}
    samples = {
        sampler: torch.stack(
            [sampler(priors, operator, y, seeds=range(s, s + 400), **run) for s in range(0, 1600, 400)]
        )
        for sampler in (samplers.mmps, samplers.conjugate)
    }
    honest, timid = (calibration(x, truth) for x in samples.values())
    assert 0.8 < honest < 1.15
    assert timid < honest - 0.05


def test_conjugate_is_project_where_nothing_is_noisy_and_all_components_are_alike(gaussian):
    operator, y = Mixture([0.7, -0.3]), Y.expand(5, *Y.shape)
    run = {"seeds": range(5), "sigmas": samplers.karras(10)}
    run["ladder"] = 0
    plain = samplers.project([gaussian] * 2, operator, y, **run)
    torch.testing.assert_close(samplers.conjugate([gaussian] * 2, operator, y, **run), plain)


def test_conjugate_moves_the_component_that_is_less_known(gaussian):
    operator, y = Mixture([0.5, 0.5]), Y.expand(200, *Y.shape)
    priors = [gaussian, gaussian]
    run = {"seeds": range(200), "sigmas": [0.5]}
    x = samplers.conjugate(priors, operator, y, prior_std=[0.3, 1e-3], **run)
    assert (operator(x) - y).abs().max() < 1e-4
    free = samplers.conjugate(priors, operator, y, noise_std=1e3, **run)  # as if nothing were observed
    moved = (x - free).abs().mean(dim=(1, 2, 3, 4))
    assert moved[1] < 1e-3 < moved[0]


class Squared:
    """``y = x_1^2 + x_2^2``: nothing but differentiable."""

    k, scale = 2, 1.0

    def __call__(self, x):
        return x.square().sum(0)


@pytest.mark.parametrize("name", ["conjugate", "mmps", "langevin"])
def test_a_nonlinear_operator_goes_through_its_derivative(gaussian, name):
    operator = Squared()
    y = torch.full((50, 1, 2, 2), 0.5)
    options = {"sigmas": samplers.geometric(4, 0.2, 0.02), "step_size": 5e-5} if name == "langevin" else {}
    with torch.no_grad():
        x = getattr(samplers, name)([gaussian] * 2, operator, y, seeds=range(50), noise_std=0.02, **options)
    assert (operator(x) - y).square().mean().sqrt() < 0.05
    assert x.std(1).mean() > 0.02  # there is a circle of answers at every pixel


def test_ep_is_for_mixtures(gaussian):
    with pytest.raises(UsageError, match="mixtures only"):
        samplers.ep([gaussian], Unobserved(gaussian.shape), torch.zeros(1, 0), seeds=[0])


def test_mmps_needs_a_differentiable_score(gaussian):
    class Opaque:
        shape, sigmas = gaussian.shape, None

        def at(self, sigma):
            return self

        @torch.no_grad()
        def score(self, x):
            return -x

    with pytest.raises(UsageError, match="can be differentiated"):
        samplers.mmps([Opaque()], Mixture([1]), Y[None], seeds=[0])


@pytest.mark.parametrize("name", ["conjugate", "ep", "mmps"])
def test_three_components_of_unequal_weight_explain_the_mixture(mixture, gaussian, name):
    operator, priors = Mixture([0.5, 0.3, -0.4]), [mixture, gaussian, gaussian]
    x = getattr(samplers, name)(priors, operator, Y.expand(20, *Y.shape), seeds=range(20))
    assert (operator(x) - Y).abs().max() < 2e-2


def test_conjugate_gradients_keep_pictures_apart_whatever_the_shape_of_what_is_seen():
    """Two numbers of each of four 4 x 4 pictures: as many pictures as rows, which must not be taken for each other."""
    prior = soft_blobs((1, 4, 4), std=0.2)

    class Seen:
        k, scale = 1, 1.0

        def __init__(self, columns):
            self.columns = columns

        def __call__(self, x):
            seen = x[0, :, 0, 0, :2] * torch.tensor([1.0, 3.0])  # unlike scales: one step does not solve it
            return seen if self.columns else seen[:, None, None, :]

    y = torch.tensor([[0.1, 2.5], [0.9, 0.3], [0.5, 1.5], [0.7, 2.0]])
    found = [
        samplers.mmps([prior], Seen(columns), seen, seeds=range(4), sigmas=samplers.karras(6), noise_std=0.02)
        for columns, seen in ((True, y), (False, y[:, None, None, :]))
    ]
    torch.testing.assert_close(*found)
    torch.testing.assert_close(Seen(True)(found[0]), y, atol=0.3, rtol=0)


def test_mmps_samples_the_prior_itself():
    prior = soft_blobs((1, 4, 4), std=0.2)
    x = samplers.mmps([prior], Unobserved(prior.shape), torch.zeros(3, 0), seeds=range(3), sigmas=samplers.karras(6))
    assert torch.isfinite(x).all()


def test_project_needs_a_projection():
    class Squared:
        k, scale = 1, 1.0

        def __call__(self, x):
            return x[0] ** 2

    with pytest.raises(UsageError, match="project"):
        samplers.project([soft_blobs((1, 4, 4))], Squared(), torch.zeros(1, 1, 4, 4), seeds=[0])
