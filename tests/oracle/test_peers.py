"""The samplers of others: what their papers promise, on priors whose posterior is known."""

from __future__ import annotations

import pytest
import torch
from basis_toy.prior import exact_posterior

from basis_cli import plugins, samplers
from basis_cli.errors import UsageError
from basis_cli.evaluation.peers import PEERS
from basis_cli.operators import Forward, Mask, Mixture
from basis_cli.samplers import peers

CHAINS = 1000
Y = torch.tensor([0.7, 0.6, 0.4, 0.3]).view(1, 2, 2)
KNOWN = Mask(torch.tensor([[1, 1], [1, 0]]))


def drawn(name, operator, y, prior, **options):
    y = y.expand(CHAINS, *y.shape)
    return plugins.sampler(name)([prior] * operator.k, operator, y, seeds=range(CHAINS), **options)


GUIDANCE = {"dps": {"guidance": 0.3}}
"""For four values; the default is for hundreds."""


@pytest.mark.parametrize("name", [name for name in PEERS if name != "dpir"])
def test_the_mean_of_separations_is_the_posteriors(gaussian, name):
    """For Gaussian priors, whose own mean is two standard deviations away."""
    operator = Mixture([0.8, 0.4])
    x = drawn(name, operator, Y, gaussian, sigmas=samplers.karras(60), **GUIDANCE.get(name, {})).double()
    posterior = exact_posterior([gaussian] * 2, operator, Y, 1e-3)
    off = (x.transpose(0, 1).flatten(1).mean(0) - posterior.mean) / posterior.covariance.diagonal().sqrt()
    assert off.abs().max() < 0.1 + 4 / CHAINS**0.5


def test_repetition_takes_the_bias_out_of_repaint(gaussian):
    """Its claim: what is filled in fits what is seen."""
    y = KNOWN(Y[None, None])[0]
    posterior = exact_posterior([gaussian], KNOWN, y, 1e-3)
    once, often = (
        drawn("repaint", KNOWN, y, gaussian, sigmas=samplers.karras(60), repeats=n).double()[0, :, 0, 1, 1].mean()
        for n in (1, 20)
    )
    missing = posterior.mean[3]
    assert (often - missing).abs() < 0.02 < (once - missing).abs()


@pytest.mark.parametrize("name", ["ddrm", "daps", "diffpir", "repaint"])
def test_what_was_seen_is_kept(gaussian, name):
    y = KNOWN(Y[None, None])[0]
    assert (KNOWN(drawn(name, KNOWN, y, gaussian)) - y).abs().max() < 1e-5


def test_the_components_of_msdm_add_up(mixture):
    operator = Mixture([0.7, 0.3])
    assert (operator(drawn("msdm", operator, Y, mixture)) - Y).abs().max() < 1e-4


def test_exact_in_its_limit_pnp_dm_has_the_posteriors_moments(gaussian, compare):
    """The coupling small, the steps many: then it is Gibbs sampling of the posterior itself."""
    y = KNOWN(Y[None, None])[0]
    x = drawn("pnp-dm", KNOWN, y, gaussian, sigmas=samplers.geometric(60, 0.5, 0.05), sde_steps=20)
    posterior = exact_posterior([gaussian], KNOWN, y, 0.05)
    compare(x, posterior).mean.check("mean", 0.15)


def test_ddrm_with_all_noise_fresh_is_project(gaussian):
    operator = Mixture([0.5, 0.5])
    fresh = drawn("ddrm", operator, Y, gaussian, eta=1.0, sigmas=samplers.karras(20))
    torch.testing.assert_close(fresh, drawn("project", operator, Y, gaussian, sigmas=samplers.karras(20)))


def test_dpir_draws_no_noise(mixture):
    x = drawn("dpir", KNOWN, Y, mixture)
    assert torch.equal(x[:, :1].expand_as(x), x)


@pytest.mark.parametrize("name", [name for name in PEERS if name not in ("dps", "diffpir", "dpir")])
def test_operators_that_a_peer_cannot_take_are_refused(gaussian, name):
    with pytest.raises(UsageError, match="linear operator|mixtures only"):
        drawn(name, Forward(lambda x: x[0].square()), Y, gaussian)
    with pytest.raises(UsageError, match="project"):
        peers.dpir([gaussian], Forward(lambda x: x[0]), Y[None], seeds=[0])


def test_dps_takes_any_operator(gaussian):
    """A gray value of squares: the answers' come near to it."""
    operator = Forward(lambda x: x[0].square().mean((1, 2, 3))[:, None])
    y = torch.tensor([0.4])
    before = drawn("dps", operator, y, gaussian, guidance=0.0)
    after = drawn("dps", operator, y, gaussian, guidance=0.1)
    assert (operator(after) - y).abs().mean() < 0.3 * (operator(before) - y).abs().mean()
