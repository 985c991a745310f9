"""How to test a prior: its score must be the gradient of its log-density, at every noise level."""

import subprocess
import sys

import pytest
import torch
from basis_prior_stripes import basis_priors
from basis_prior_stripes.prior import NOISE, load, stripe_pictures

from basis_cli.api import soundness

CPU = torch.device("cpu")


@pytest.fixture
def prior():
    (spec,) = basis_priors()
    return load(spec, None, CPU)


@pytest.mark.parametrize("sigma", [1.0, 0.3, 0.05])
def test_score_is_the_slope_of_log_prob(prior, sigma):
    # Central differences along random directions, in float64, where the pictures of a sampler's run would be. A score
    # that is off by a sign, a factor or a range conversion fails here.
    generator = torch.Generator().manual_seed(0)
    clean = prior.pictures[::3].double()
    x = clean + sigma * torch.randn(clean.shape, dtype=torch.float64, generator=generator)
    direction = torch.randn(x.shape, dtype=torch.float64, generator=generator)
    level, h = prior.at(sigma), 1e-5
    slope = (level.log_prob(x + h * direction) - level.log_prob(x - h * direction)) / (2 * h)
    torch.testing.assert_close((level.score(x) * direction).flatten(1).sum(1), slope, rtol=1e-5, atol=1e-5)


def test_it_is_sound(prior):
    # What `basis priors check stripes` says: wrong ranges, noise scales, batch statistics and more have names there.
    noise = torch.randn(prior.pictures.shape, generator=torch.Generator().manual_seed(0))
    assert soundness.check(prior, prior.pictures + NOISE * noise).verdict == "sound"


def test_a_picture_does_not_depend_on_its_batch(prior):
    x = torch.rand(5, *prior.shape, generator=torch.Generator().manual_seed(1))
    level = prior.at(0.2)
    assert torch.equal(level.score(x)[3:4], level.score(x[3:4]))


def test_following_the_score_leads_to_a_striped_picture(prior):
    x = 0.5 + 0.1 * torch.randn(4, *prior.shape, generator=torch.Generator().manual_seed(2))
    for sigma in (0.5, 0.2, 0.05):
        level = prior.at(sigma)
        for _ in range(20):
            x = x + 0.5 * level.variance * level.score(x)
    nearest = (x[:, None] - stripe_pictures()).abs().flatten(2).amax(2).amin(1)
    assert nearest.max() < 0.01


def test_spec_and_prior_agree(prior):
    (spec,) = basis_priors()
    assert prior.shape == spec.shape == tuple(prior.pictures.shape[1:])
    assert prior.sigmas == spec.sigmas


def test_the_plugin_is_light():
    code = "import sys, basis_prior_stripes as p; p.basis_priors(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
