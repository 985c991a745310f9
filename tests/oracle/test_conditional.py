"""With a prior that knows what the observed part says, the conditional sampler draws from the posterior."""

from __future__ import annotations

import pytest
import torch
from basis_toy.prior import GaussianMixture, exact_posterior

from basis_cli import samplers
from basis_cli.errors import UsageError
from basis_cli.operators import Downsample, Mask, Unobserved
from basis_cli.posterior import Sampling, conditioned
from basis_cli.priors.given import given

CHAINS = 1500
TRUTH = torch.tensor([0.6, 0.55, 0.4, 0.45]).view(1, 1, 1, 2, 2)
OPERATORS = {"mask": Mask(torch.tensor([[1, 0], [0, 0]])), "shrunk": Downsample(2, (2, 2))}
LADDER = samplers.wide(150, high=10.0, low=0.003)


class Knowing(GaussianMixture):
    """A mixture that knows the exact posterior of one observation, with noise in the rest alone."""

    def given(self, operator):
        if isinstance(operator, Unobserved):
            return None
        known = exact_posterior([self], operator, operator(TRUTH)[0], 1e-4)
        return GaussianMixture(known.weights, known.means, known.covariances, self.shape)


def knowing(prior):
    return Knowing(prior.weights, prior.means, prior.covariances, prior.shape)


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("which", ["gaussian", "mixture"])
@pytest.mark.parametrize("overrelaxation", [-0.9, -1.0])
def test_samples_have_the_posteriors_moments(request, compare, which, name, overrelaxation):
    operator, prior = OPERATORS[name], knowing(request.getfixturevalue(which))
    y = operator(TRUTH).expand(CHAINS, -1, -1, -1)
    x = samplers.conditional(
        given([prior], operator), operator, y, seeds=range(CHAINS), sigmas=LADDER, overrelaxation=overrelaxation
    )
    assert (operator(x) - y).abs().max() < 1e-6
    posterior, basis = exact_posterior([prior], operator, operator(TRUTH)[0], 1e-4), null_space(operator)
    rest = basis.T @ posterior.covariances @ basis
    rest = GaussianMixture(posterior.weights, posterior.means @ basis, rest, (basis.shape[1],))
    compare(x.double().flatten(2) @ basis, rest).check(mean=0.02, covariance=0.06, weights=0.02)


def null_space(operator):
    """An orthonormal basis ``(d, r)`` of the pictures that ``operator`` makes zero."""
    units = torch.eye(4).view(1, 4, 1, 2, 2)
    values, vectors = torch.linalg.eigh((units - operator.pinv(operator(units))).view(4, 4).double())
    return vectors[:, values > 0.5]


def test_it_is_chosen_where_the_prior_knows_the_operator(gaussian):
    prior, mask, defaults = knowing(gaussian), OPERATORS["mask"], {"sampler": "project"}
    assert conditioned([prior], mask, Sampling(), defaults, {}).sampling.sampler == "conditional"
    assert conditioned([prior], mask, Sampling("conditional"), defaults).sampling.sampler == "conditional"
    assert conditioned([prior], mask, Sampling(), defaults).sampling.sampler == "project"
    assert conditioned([gaussian], mask, Sampling(), defaults, {}).sampling.sampler == "project"
    assert conditioned([prior], mask, Sampling(sampler="project"), defaults, {}).sampling.sampler == "project"
    assert conditioned([prior], mask, Sampling(noise_std=0.1), defaults, {}).sampling.sampler != "conditional"
    assert conditioned([prior], Unobserved((1, 2, 2)), Sampling(), defaults, {}).sampling.sampler == "project"


def test_samples_are_ranked_by_the_prior_of_whole_pictures(gaussian):
    prior, mask = knowing(gaussian), OPERATORS["mask"]
    x = torch.rand(1, 3, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    found = [
        conditioned([p], mask, Sampling(), {"sampler": "project"}, {}).log_likelihood(x, mask(x))
        for p in (prior, gaussian)
    ]
    assert torch.equal(*found)


def test_a_prior_that_has_not_learned_it_is_refused(gaussian):
    mask = OPERATORS["mask"]
    with pytest.raises(UsageError, match="has not learned"):
        samplers.conditional([gaussian], mask, mask(TRUTH), seeds=[0])
