"""Algorithm 1 against the exact posterior.

When it stops at noise level s, its target is the posterior under the priors smoothed with s and observation noise
``s * operator.scale``. A step of size eta adds a bias that is known: see :func:`unadjusted`.
"""

from __future__ import annotations

import math

import pytest
import torch
from basis_toy.prior import GaussianMixture, exact_posterior, soft_blobs

from basis_cli import samplers
from basis_cli.operators import Downsample, Gray, Mask, Mixture, Unobserved

SIGMAS = (0.6, 0.35, 0.2)
CHAINS = 2000


def target(priors, operator, y, sigma):
    return exact_posterior([prior.at(sigma) for prior in priors], operator, y, sigma * operator.scale)


def stiffness(posterior):
    """The largest curvature of ``-log p``; Langevin steps above two over this diverge."""
    return float(torch.linalg.eigvalsh(posterior.precisions).max())


def unadjusted(posterior, eta):
    """What Langevin steps of size ``eta`` draw from instead: covariance ``(P - eta P^2 / 2)^-1`` for precision ``P``.

    Exact for a Gaussian (solve ``S = (1 - eta P) S (1 - eta P) + 2 eta``), and for modes of a mixture that hardly
    overlap; the tests show that it is close enough for those here.
    """
    precisions = posterior.precisions - eta / 2 * posterior.precisions @ posterior.precisions
    return GaussianMixture(posterior.weights, posterior.means, torch.linalg.inv(precisions), posterior.shape)


def picture(*values):
    return torch.tensor(values).view(1, 2, 2)


CASES = {
    "k=1": (["gaussian"], [1.0], picture(0.7, 0.6, 0.4, 0.3)),
    "k=1 modes": (["mixture"], [-0.5], picture(-0.25, -0.2, -0.3, -0.2)),
    "k=2 mean": (["mixture", "mixture"], [0.5, 0.5], picture(0.55, 0.6, 0.5, 0.45)),
    "k=2 two priors, unequal alpha": (["gaussian", "mixture"], [0.7, 0.3], picture(0.55, 0.6, 0.5, 0.45)),
    "k=3 two priors, unequal alpha": (
        ["mixture", "gaussian", "mixture"],
        [0.4, -0.3, 0.9],
        picture(0.5, 0.6, 0.4, 0.5),
    ),
    "k=3 sum": (["mixture", "gaussian", "mixture"], [1, 1, 1], picture(1.5, 1.6, 1.4, 1.3)),
    "k=1 unconditional": (["gaussian"], None, torch.zeros(0)),
    "k=1 unconditional modes": (["mixture"], None, torch.zeros(0)),
}


@pytest.mark.parametrize("case", CASES)
def test_samples_agree_with_the_posterior(case, compare, request):  # of one noise level, the paper's
    names, alpha, y = CASES[case]
    priors = [request.getfixturevalue(name) for name in names]
    operator = Mixture(alpha) if alpha else Unobserved(priors[0].shape)
    posterior = target(priors, operator, y, SIGMAS[-1])
    eta = 0.4 / stiffness(posterior)
    samples = samplers.langevin(
        priors,
        operator,
        y.expand(CHAINS, *y.shape),
        seeds=range(CHAINS),
        sigmas=SIGMAS,
        steps=150,
        step_size=eta,
        ladder=0,
    )
    compare(samples, unadjusted(posterior, eta)).check()


OTHERS = {
    "gray": ((3, 1, 2), Gray([0.5, 0.3, 0.2]), torch.tensor([0.6, 0.45]).view(1, 1, 2)),
    "mask": ((1, 2, 2), Mask(torch.tensor([[1, 0], [1, 0]])), picture(0.8, 0.0, 0.6, 0.0)),
    "box": ((1, 2, 4), Downsample(2, (2, 4)), torch.tensor([0.6, 0.45]).view(1, 1, 2)),
    "bicubic": ((1, 2, 4), Downsample(2, (2, 4), "bicubic"), torch.tensor([0.6, 0.45]).view(1, 1, 2)),
}


@pytest.mark.parametrize("case", OTHERS)
def test_samples_of_every_operator_agree_with_the_posterior(case, compare):
    shape, operator, y = OTHERS[case]
    priors = [soft_blobs(shape, std=0.3, length=1.5)]
    posterior = target(priors, operator, y, SIGMAS[-1])
    eta = 0.4 / stiffness(posterior)
    samples = samplers.langevin(
        priors, operator, y.expand(CHAINS, *y.shape), seeds=range(CHAINS), sigmas=SIGMAS, steps=150, step_size=eta
    )
    compare(samples, unadjusted(posterior, eta)).check()


def test_with_a_small_step_the_posterior_itself_is_sampled(gaussian, compare):
    operator, y, sigma = Mixture([0.8, 0.4]), picture(0.7, 0.6, 0.4, 0.3), 0.2
    posterior = target([gaussian, gaussian], operator, y, sigma)
    eta = 0.05 / stiffness(posterior)
    samples = samplers.langevin(
        [gaussian] * 2,
        operator,
        y.expand(CHAINS, *y.shape),
        seeds=range(CHAINS),
        sigmas=[sigma],
        steps=1500,
        step_size=eta,
        ladder=0,
    )
    compare(samples, posterior).check(covariance=0.05 / 2)  # 1 / (1 - eta P / 2) - 1 at most


def test_every_level_follows_its_own_law(gaussian, compare):
    """Few steps, far from equilibrium: moments of a linear recursion, from uniform noise to the end of each level."""
    sigmas, steps, eta, alpha, k = (1.0, 0.5, 0.2), 3, 2e-3, torch.tensor([0.7, 0.4]).double(), 2
    operator, y = Mixture(alpha.tolist()), picture(0.7, 0.6, 0.4, 0.3)
    states = {}
    samplers.langevin(
        [gaussian] * k,
        operator,
        y.expand(CHAINS, *y.shape),
        seeds=range(CHAINS),
        sigmas=sigmas,
        steps=steps,
        step_size=eta,
        ladder=0,
        watch=lambda progress: states.update({progress.level: progress.x.clone()}),
    )
    d = gaussian.means.shape[1]
    mean, covariance = torch.full((k * d,), 0.5).double(), torch.eye(k * d).double() / 12
    for level, sigma in enumerate(sigmas):
        law = target([gaussian] * k, operator, y, sigma)
        rate = eta * sigma**2 / sigmas[-1] ** 2
        step = torch.eye(k * d) - rate * law.precisions[0]
        for _ in range(steps):
            mean = law.mean + step @ (mean - law.mean)
            covariance = step @ covariance @ step + 2 * rate * torch.eye(k * d)
        expected = GaussianMixture(torch.ones(1), mean[None], covariance[None], law.shape)
        compare(states[level], expected).check()


def test_spread_is_as_large_as_the_error_over_many_observations(mixture, gaussian, calibration):
    sigma, priors, operator = 0.2, [mixture, gaussian], Mixture([0.5, 0.5])
    generator = torch.Generator().manual_seed(0)
    truth = torch.stack([prior.at(sigma).sample(1000, generator) for prior in priors])
    clean = operator(truth)
    y = clean + sigma * operator.scale * torch.randn(clean.shape, generator=generator)
    eta = 0.2 / stiffness(target(priors, operator, y[0], sigma))
    run = {"sigmas": SIGMAS, "steps": 150, "step_size": eta}
    samples = [samplers.langevin(priors, operator, y.float(), seeds=range(s, s + 1000), **run) for s in (0, 1000)]
    # The finite step widens the stiffest directions by a factor of sqrt(1 / 0.9) at most.
    assert 0.97 < calibration(torch.stack(samples), truth) < 1.03 / math.sqrt(0.9)


@pytest.mark.parametrize(("k", "h"), [(2, 0.3), (2, 0.45), (2, 0.6), (4, 0.35)])
def test_large_steps_leave_the_noise_that_the_docs_say_and_a_temperature_takes_it_back(k, h):
    """A prior of one picture: all spread is noise (docs/concepts/samplers.md)."""
    point = GaussianMixture(torch.ones(1), torch.full((1, 4), 0.5), 1e-9 * torch.eye(4)[None], (1, 2, 2))
    sigma = 0.1
    variance = ((k - 1) / (1 - h / 2) + 1 / ((k + 1) * (1 - (k + 1) * h / 2))) / k

    def noise(temperature: float) -> float:
        x = samplers.langevin(
            [point] * k,
            Mixture([1 / k] * k),
            torch.full((CHAINS, 1, 2, 2), 0.5),
            seeds=range(CHAINS),
            sigmas=(sigma,),
            steps=100,
            step_size=h * sigma**2,
            temperature=temperature,
        )
        return float((x - 0.5).square().mean().sqrt() / sigma)

    assert noise(1.0) == pytest.approx(variance**0.5, rel=0.03)
    assert noise(1 / variance) == pytest.approx(1, rel=0.03)


def test_components_have_levels_of_their_own_where_priors_take_them(gaussian):
    class Fixed:
        shape, sigmas, at = gaussian.shape, SIGMAS, staticmethod(gaussian.at)

    run = {"seeds": [0, 1], "sigmas": SIGMAS, "steps": 3, "step_size": 1e-3}
    y = picture(0.7, 0.6, 0.4, 0.3).expand(2, 1, 2, 2)

    def differ(prior, alpha):
        first, second = (samplers.langevin([prior] * 2, Mixture(alpha), y, ladder=p, **run) for p in (0, 1))
        return not torch.equal(first, second)

    assert differ(gaussian, [0.8, 0.2])
    assert not differ(gaussian, [0.5, 0.5])
    assert not differ(Fixed(), [0.8, 0.2])
