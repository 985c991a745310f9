"""Ladders of noise levels and the samplers' default figures, against numbers worked out elsewhere."""

from __future__ import annotations

import itertools

import pytest
import torch

from basis_cli import samplers
from basis_cli.operators import Mixture

EDM = (80.0, 57.58598, 40.78557, 28.37458, 19.35245, 12.91008, 8.400935, 5.315195, 3.256822)
EDM += (1.923340, 1.088171, 0.5853481, 0.2964423, 0.1395165, 0.0599473, 0.0229345, 0.0075280, 0.002)
"""The 18 noise levels with which Karras et al. (2022) sample CIFAR-10, rho = 7."""

KARRAS = {0: 1, 1: 0.97687319, 10: 0.77300948, 25: 0.45336203, 40: 0.16928685, 48: 0.04334162, 49: 0.03}
"""Some of the 50 levels from 1 to 0.03 with rho = 1.2, by logarithms in 40 digits."""


class Flat:
    """A prior that is sure of a gray picture at every level; it notes the levels and what it was asked about."""

    sigmas = None
    shape = (1, 16, 16)

    def __init__(self) -> None:
        self.asked: list[tuple[float, torch.Tensor]] = []

    def at(self, sigma: float) -> FlatLevel:
        return FlatLevel(self, sigma)


class FlatLevel:
    def __init__(self, prior: Flat, sigma: float):
        self.prior, self.sigma = prior, sigma

    def score(self, x: torch.Tensor) -> torch.Tensor:
        self.prior.asked.append((self.sigma, x.detach().clone()))
        return (0.5 - x) / self.sigma**2


def asked(sampler, n: int = 4, **options) -> list[tuple[float, torch.Tensor]]:
    """The levels and pictures that a prior is asked about when ``sampler`` separates gray mixtures by default."""
    prior = Flat()
    sampler([prior, prior], Mixture([0.5, 0.5]), torch.full((n, *Flat.shape), 0.5), seeds=range(n), **options)
    return prior.asked


def test_karras_ladder_is_that_of_the_paper():
    assert samplers.karras(18, 80, 0.002, rho=7) == pytest.approx(EDM, rel=1e-4)


def test_karras_ladder_of_squares_is_evenly_spaced_in_their_roots():
    assert samplers.karras(5, 1, 0.04, rho=2) == pytest.approx([1, 0.64, 0.36, 0.16, 0.04])
    assert samplers.karras(3, 8, 1, rho=3) == pytest.approx([8, 3.375, 1])


def test_karras_ladder_by_default():
    ladder = samplers.karras(50)
    assert len(ladder) == 50
    assert [ladder[i] for i in KARRAS] == pytest.approx(list(KARRAS.values()), rel=1e-6)
    assert samplers.karras(5) == pytest.approx([1, 0.72333575, 0.46353566, 0.22674178, 0.03], rel=1e-6)
    assert samplers.karras(1, 0.7) == (0.7,)


def test_linear_ladder_has_a_constant_difference():
    assert samplers.linear(5, 1, 0.2) == pytest.approx([1, 0.8, 0.6, 0.4, 0.2])
    assert samplers.linear(3) == pytest.approx([1.3, 0.665, 0.03])


def test_geometric_ladder_has_a_constant_ratio():
    assert samplers.geometric(3, 2, 0.5) == pytest.approx([2, 1, 0.5])
    assert samplers.geometric(5) == pytest.approx([1, 0.31622777, 0.1, 0.031622777, 0.01])
    assert samplers.geometric(1, 1, 0.3) == (0.3,)


def test_coarse_scales_come_down_the_highest_octave_again():
    assert samplers.from_coarse((1, 0.75, 0.5, 0.25), 2) == (4, 3, 2, 1.5, 1, 0.75, 0.5, 0.25)
    assert samplers.from_coarse((1, 0.4), 1) == (2, 1, 0.4)
    assert samplers.from_coarse((1, 0.4), 0) == (1, 0.4)


@pytest.mark.parametrize("sampler", [samplers.project, samplers.conjugate, samplers.mmps])
def test_samplers_of_one_estimate_a_level_go_down_the_karras_ladder(sampler):
    levels = [sigma for sigma, _ in asked(sampler)]
    assert len(levels) == 50
    assert [levels[i] for i in KARRAS] == pytest.approx(list(KARRAS.values()), rel=1e-6)


def test_ep_asks_at_25_even_levels_and_again_at_lower_ones():
    """Components of equal weight whose pixels spread by 0.22 are known as well as ``1 / (2 / sigma^2 + 1 / 0.22^2)``:
    0.0457779 at sigma = 1.3, and 0.00044586 at 0.03."""
    levels = [sigma for sigma, _ in asked(samplers.ep)]
    first, second = levels[::2], levels[1::2]
    assert len(first) == 25
    assert [first[0], first[1], first[12], first[24]] == pytest.approx([1.3, 1.2470833, 0.665, 0.03])
    assert second[0] == pytest.approx(0.0457779**0.5, rel=1e-5)
    assert second[24] == pytest.approx(0.00044586**0.5, rel=1e-4)


def test_conjugate_shares_what_is_unexplained_between_picture_and_noise():
    """One level at sigma = 0.3, the default ``prior_std``: with noise of variance 0.045 in a single picture, whose
    remaining variance is 0.3^2 / 2 = 0.045 too, half of the residual is noise."""
    y = torch.full((1, *Flat.shape), 0.9)
    prior = Flat()
    x = samplers.conjugate([prior], Mixture([1]), y, seeds=[0], sigmas=(0.3,), noise_std=0.045**0.5)
    torch.testing.assert_close(x[0], torch.full_like(y, 0.5 + 0.4 / 2))


@pytest.mark.parametrize(
    ("sampler", "expected"), [(samplers.ep, -0.9), (samplers.project, 0.0), (samplers.conjugate, 0.0)]
)
def test_how_much_of_the_noise_comes_back_negated(sampler, expected):
    """The prior's answer is always 1/2, so what it is asked about is that and the noise of the level."""
    questions = asked(sampler, n=8)
    noises = [(x - 0.5) / sigma for sigma, x in (questions[::2] if sampler is samplers.ep else questions)]
    for before, after in itertools.pairwise(noises[:6]):
        both = torch.stack([before.flatten(), after.flatten()])
        assert after.std() == pytest.approx(1, abs=0.05)
        assert float(both.corrcoef()[0, 1]) == pytest.approx(expected, abs=0.06)


def test_mmps_renoises_as_the_reverse_of_adding_noise():
    """From level 0.6 to 0.3 a quarter of the old noise is kept, the rest drawn afresh; the first noise is forgotten."""
    questions = asked(samplers.mmps, n=8, sigmas=(1.2, 0.6, 0.3))
    first, second, third = (x.flatten() - 0.5 for _, x in questions)
    for noise, sigma in ((first, 1.2), (second, 0.6), (third, 0.3)):
        assert float(noise.std()) == pytest.approx(sigma, rel=0.05)
    assert float(torch.stack([first, second]).corrcoef()[0, 1]) == pytest.approx(0, abs=0.06)
    assert float((third * second).mean() / (second * second).mean()) == pytest.approx(0.25, abs=0.03)
