"""The uncertainty of separations, whatever sampler found them: does the truth lie among samples about the answers?"""

from __future__ import annotations

import pytest
import torch
from basis_toy.prior import four_pictures, soft_blobs

from basis_cli import samplers
from basis_cli.evaluation.coverage import covered, nominal
from basis_cli.operators import Composed, Mixture, Saturated
from basis_cli.posterior import Guided, Result, Sampling, answers, ranking, spread
from basis_cli.samplers import image_seed

COUNT = 150


@pytest.mark.parametrize(
    ("kind", "wide"),
    [
        ("gaussian", 0.03),
        ("both", 0.03),
        ("pictures", 0.03),
        ("mixture", 0.07),
    ],  # too wide: noise of .25 joins its modes
)
def test_the_truth_lies_among_samples_about_an_answer_as_often_as_it_should(mixture, kind, wide):
    gaussian, pictures = soft_blobs((1, 2, 2), std=0.12, length=1.5), four_pictures((1, 8, 8))
    priors = {
        "gaussian": [gaussian] * 2,
        "mixture": [mixture] * 2,
        "both": [gaussian, mixture],
        "pictures": [pictures] * 2,
    }[kind]
    generator = torch.Generator().manual_seed(0)
    truth = torch.stack([prior.sample(COUNT, generator) for prior in priors]).float()
    operator = Mixture([0.5, 0.5])
    y = operator(truth)
    seeds = [[image_seed(0, i, j) for j in range(4)] for i in range(COUNT)]
    posterior = Guided(priors, operator, Sampling("ep"))
    found = answers(posterior, y, seeds, select="best", truth=truth, uncertainty=True)
    result = Result.joined([one for _, one in found])
    share = float(covered(result.draws, truth).float().mean())
    assert share == pytest.approx(nominal(spread.DRAWS), abs=wide)
    within = (result.components[:, :, 0] - truth).abs() < result.std  # 68 % of a Gaussian, had it infinitely many draws
    assert float(within.float().mean()) == pytest.approx(0.68, abs=0.07)
    timid = torch.stack([one.x for one in result.ranked], dim=1)  # its own samples are all alike
    assert result.draws.var(2).mean() > 2 * timid.var(2).mean()


def test_samples_know_that_files_hold_rounded_mixtures():
    """A component that is sure: the other one is off by what was rounded, up to a level, and samples say so."""
    generator = torch.Generator().manual_seed(2)
    sure, unsure = (soft_blobs((1, 4, 4), std=std, length=1.0) for std in (1e-4, 0.1))
    truth = torch.stack([prior.sample(COUNT, generator) for prior in (sure, unsure)]).float()
    operator = Mixture([0.5, 0.5])
    y = (operator(truth) * 255).round() / 255
    posterior = Guided([sure, unsure], operator, Sampling("ep"))

    def error_over_spread(y):
        seeds = [[image_seed(0, i)] for i in range(COUNT)]
        result = Result.joined([one for _, one in answers(posterior, y, seeds, uncertainty=True)])
        off = (result.draws.mean(2) - truth)[1].square().mean() / (1 + 1 / spread.DRAWS)
        return float((off / result.draws.var(2)[1].mean()).sqrt())

    assert error_over_spread(y) == pytest.approx(1, abs=0.2)
    assert error_over_spread(y + 0.1 / 255) > 1.5  # values of no file


def test_what_was_rounded_is_drawn_from_what_rounds_to_it():
    y = (torch.rand(3, 3, 5, 5, generator=torch.Generator().manual_seed(0)) * 255).round() / 255
    y[1] = y[1, :1]
    y[2] += 1e-4
    drawn = spread.unrounded(Mixture([0.5, 0.5]), y, [1, 2, 3])
    assert torch.equal((drawn[:2] * 255).round() / 255, y[:2])
    assert (drawn[:2] != y[:2]).float().mean() > 0.95
    assert (drawn[1] == drawn[1, :1]).all()  # gray
    assert torch.equal(drawn[2], y[2])
    assert torch.equal(drawn[1:2], spread.unrounded(Mixture([0.5, 0.5]), y[1:2], [2]))
    assert torch.equal(spread.unrounded(Composed(Saturated(), Mixture([1, 1])), y, [1, 2, 3]), y)


def test_a_root_takes_as_many_products_as_there_are_eigenvalues():
    values = torch.tensor([0.0, 0.25, 1.0])[torch.randint(3, (12,), generator=torch.Generator().manual_seed(0))]
    basis = torch.linalg.qr(torch.randn(12, 12, generator=torch.Generator().manual_seed(1)))[0]
    z = torch.randn(1, 2, 1, 3, 4, generator=torch.Generator().manual_seed(2))

    def product(v, power=1.0):
        return (v.flatten(2) @ (basis * values**power) @ basis.T).view_as(v)

    torch.testing.assert_close(samplers.denoising._root(product, z, 3), product(z, 0.5), rtol=1e-3, atol=1e-3)


def test_answers_are_drawn_about_as_often_as_they_are_probable(gaussian):
    x = torch.tensor([0.1, 0.11, 0.9]).view(1, 3, 1, 1, 1).expand(2, 3, 1, 2, 2)
    ranked = ranking.rank(x, torch.tensor([0.0, -9.0, -1.0986]), [0, 1])  # the last is a third as likely
    weights = spread.modes(ranked, [gaussian] * 2)
    assert weights == pytest.approx([0.75, 0.25], abs=1e-4)
    assert spread.starts(ranked, weights)[0, :, 0, 0, 0].tolist() == pytest.approx([0.1] * 6 + [0.9] * 2)

    class Score:
        sigmas = None

        def at(self, sigma):
            return self

    assert spread.modes(ranked, [Score()])[0] == pytest.approx(1 / (1 + 3**-0.2), abs=1e-4)


def test_coverage_of_exact_samples_is_nominal_with_ties_and_without():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1, 4000, 8 + 1, 1, 1, 1, generator=generator)
    for values in (x, (x > 0.9).float()):
        share = covered(values[:, :, :8], values[:, :, 8]).float().mean()
        assert float(share) == pytest.approx(nominal(8), abs=0.02)
