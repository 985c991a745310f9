"""Large pictures in tiles: the score is the large prior's where that is known, and nothing depends on the batch."""

from __future__ import annotations

import pytest
import torch
from basis_toy.prior import GaussianMixture, four_pictures, soft_blobs

from basis_cli import load_prior, samplers, tasks
from basis_cli.errors import UsageError
from basis_cli.operators import Mixture
from basis_cli.sampling import Sampling
from basis_cli.tiles import TiledPrior, raised_cosine, starts

SHAPE = (1, 8, 8)


def white(*size, mean=0.4):
    d = size[0] * size[1]
    return GaussianMixture(torch.ones(1), torch.full((1, d), mean), 0.04 * torch.eye(d)[None], (1, *size))


class Constant:
    """A prior whose score is 1 everywhere; it notes how many tiles it is given at once."""

    shape, sigmas = (2, 8, 6), (1.0, 0.1)

    def __init__(self):
        self.sizes = []

    def at(self, sigma):
        return self

    def score(self, x):
        self.sizes.append(len(x))
        assert x.shape[1:] == self.shape
        return torch.ones_like(x)


@pytest.mark.parametrize("overlap", [None, 0, 1, 3, 5])
@pytest.mark.parametrize("size", [(8, 6), (8, 7), (15, 29), (32, 24)])
def test_weights_sum_to_one(size, overlap):
    prior = TiledPrior(Constant(), size, overlap)
    assert (prior.shape, prior.sigmas) == ((2, *size), (1.0, 0.1))
    torch.testing.assert_close(prior.at(1.0).score(torch.rand(3, 2, *size)), torch.ones(3, 2, *size))


@pytest.mark.parametrize("overlap", [None, 0, 2, 7])
@pytest.mark.parametrize("size", [(8, 8), (13, 21)])
def test_score_of_independent_pixels_is_exactly_the_large_priors(size, overlap):
    x = torch.rand(4, 1, *size)
    tiled, large = TiledPrior(white(8, 8), size, overlap), white(*size)
    for sigma in (1.0, 0.05):
        torch.testing.assert_close(tiled.at(sigma).score(x), large.at(sigma).score(x))


def test_samples_of_independent_pixels_are_the_large_priors():
    y = torch.rand(2, 1, 12, 20, generator=torch.Generator().manual_seed(0))
    tiled, large = (
        samplers.ep([prior, prior], Mixture([0.5, 0.5]), y, seeds=[1, 2], sigmas=samplers.karras(5))
        for prior in (TiledPrior(white(8, 8), (12, 20)), white(12, 20))
    )
    torch.testing.assert_close(tiled, large)


def test_last_tile_is_flush_with_the_edge():
    assert starts(20, 8, 4) == [0, 4, 8, 12]
    assert starts(21, 8, 4) == [0, 4, 8, 12, 13]
    assert starts(8, 8, 4) == [0]
    assert starts(17, 8, 0) == [0, 8, 9]


def test_neighbours_that_overlap_by_half_sum_to_one_and_meet_smoothly():
    weights = raised_cosine(8, 4, torch.device("cpu"))
    torch.testing.assert_close(weights[:4] + weights[4:], torch.ones(4))
    assert (weights[:4].diff() > 0).all()
    assert weights[0] < 0.04
    assert raised_cosine(8, 0, torch.device("cpu")).tolist() == [1] * 8


@pytest.mark.parametrize("n", [1, 3])
def test_tiles_at_once_are_bounded_and_change_nothing(n):
    prior = load_prior("ncsn-mnist", device="cpu")
    x = torch.rand(n, 1, 45, 60)
    with torch.inference_mode():
        one, few, all_ = (TiledPrior(prior, (45, 60), at_once=size).at(0.3).score(x) for size in (1, 7, 1000))
    assert torch.equal(one, few)
    assert torch.equal(one, all_)
    counting = Constant()
    TiledPrior(counting, (19, 25), at_once=7).at(0.3).score(torch.rand(n, 2, 19, 25))
    assert max(counting.sizes) <= 7
    assert sum(counting.sizes) == n * 4 * 8


def test_score_can_be_differentiated_without_keeping_all_tiles():
    tiled, large = TiledPrior(white(8, 8), (12, 12)), white(12, 12)
    y = torch.rand(1, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    one, other = (
        samplers.mmps([prior] * 2, Mixture([0.5, 0.5]), y, seeds=[0], sigmas=samplers.karras(4))
        for prior in (tiled, large)
    )
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("size", "overlap", "says"), [((7, 20), None, "less than a tile"), ((9, 9), 8, "overlap by 8")]
)
def test_what_cannot_be_tiled(size, overlap, says):
    with pytest.raises(UsageError, match=says):
        TiledPrior(soft_blobs(SHAPE), size, overlap)


def test_library_takes_a_tiled_prior_for_any_task():
    tiled = TiledPrior(four_pictures(SHAPE), (20, 28))
    mixture = torch.rand(1, 20, 28, generator=torch.Generator().manual_seed(0)) / 2 + 0.25
    result = tasks.separate(mixture, prior=tiled, samples=2, select="best", sampling=Sampling(levels=3, device="cpu"))
    assert result.components.shape == (2, 1, 1, 1, 20, 28)
    assert result.residual.max() < 1
    assert result.evaluations == 2 * (3 * 2 + 8)  # of whole pictures
