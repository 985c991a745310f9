"""Large pictures in tiles: the score is the large prior's where that is known, and nothing depends on the batch."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from basis_toy.prior import GaussianMixture, four_pictures, soft_blobs

from basis_cli import load_prior, samplers, tasks
from basis_cli.errors import UsageError
from basis_cli.operators import Mixture
from basis_cli.posterior import Sampling, ranking
from basis_cli.priors.tiles import PyramidPrior, TiledPrior, doubled, halved, raised_cosine, starts
from basis_cli.tasks.decompression import Decompress

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
    with torch.no_grad():
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
    result = tasks.separate(mixture, prior=tiled, samples=2, select="best", sampling=Sampling(levels=3))
    assert result.components.shape == (2, 1, 1, 1, 20, 28)
    assert result.residual.max() < 1
    assert result.evaluations == 2 * (3 * 2 + 8)  # of whole pictures


# --- pyramids --------------------------------------------------------------------------------------------------------


def denoised(prior, x, sigma):
    return x + sigma**2 * prior.at(sigma).score(x)


@pytest.mark.parametrize("size", [(16, 16), (17, 23), (35, 40)])
def test_halving_takes_back_doubling(size):
    small = torch.rand(2, 3, *(-(-side // 2) for side in size))
    large = doubled(small, size)
    assert large.shape == (2, 3, *size)
    inside = (..., *(slice(side // 2) for side in size))  # an odd edge is averaged with what is before it
    torch.testing.assert_close(halved(large)[inside], small[inside])
    assert float(large[0, 0, 5, 7]) == float(small[0, 0, 2, 3])


@pytest.mark.parametrize("size", [(64, 64), (65, 50)])
def test_halving_halves_the_noise_everywhere(size):
    noise = torch.randn(20_000, 1, *size, generator=torch.Generator().manual_seed(0))
    std = halved(noise).std(0)
    assert std.shape == (1, -(-size[0] // 2), -(-size[1] // 2))
    assert std.sub(0.5).abs().max() < 0.015


def test_a_pyramid_halves_until_a_tile_covers_most():
    prior = soft_blobs(SHAPE)
    for size, scales in [
        ((8, 8), [(8, 8)]),
        ((14, 40), [(14, 40)]),
        ((15, 40), [(15, 40), (8, 20)]),
        ((64, 40), [(64, 40), (32, 20), (16, 10)]),
    ]:
        pyramid = PyramidPrior(prior, size, overlap=2)
        assert [scale.shape[1:] for scale in pyramid.scales] == scales
        assert pyramid.halvings == len(scales) - 1
        assert all(scale.overlaps == [2, 2] for scale in pyramid.scales)
    x = torch.rand(2, 1, 14, 11)
    assert torch.equal(PyramidPrior(prior, (14, 11)).at(0.3).score(x), TiledPrior(prior, (14, 11)).at(0.3).score(x))


@pytest.mark.parametrize("size", [(16, 16), (17, 30)])
def test_what_is_large_comes_from_the_shrunk_picture_and_the_rest_from_tiles(size):
    prior, sigma = soft_blobs(SHAPE), 0.5
    x = torch.randn(3, 1, *size)
    found = denoised(PyramidPrior(prior, size, 4), x, sigma)
    coarse = denoised(TiledPrior(prior, halved(x).shape[2:], 4), halved(x), sigma / 2)
    inside = (..., slice(size[0] // 2), slice(size[1] // 2))
    torch.testing.assert_close(halved(found)[inside], coarse[inside])
    tiles = denoised(TiledPrior(prior, size, 4), x, sigma)
    fine = (..., slice(size[0] // 2 * 2), slice(size[1] // 2 * 2))
    torch.testing.assert_close(
        (found - doubled(halved(found), size))[fine], (tiles - doubled(halved(tiles), size))[fine]
    )


class Telling:
    """A prior that notes the noise levels it is asked for."""

    shape, sigmas = (1, 8, 8), None

    def __init__(self):
        self.asked = []

    def at(self, sigma):
        self.asked.append(sigma)
        return self

    def score(self, x):
        return torch.zeros_like(x)


def test_each_scale_speaks_while_its_own_noise_is_what_networks_know():
    for sigma, spoken in [
        (4.0, [1.0]),
        (2.4, [1.2, 0.6]),
        (1.0, [1.0, 0.5, 0.25]),
        (0.3, [0.3, 0.15]),
        (0.15, [0.15]),
        (0.001, [0.001]),
        (40.0, [10.0]),
    ]:
        prior = Telling()
        x = torch.rand(2, 1, 32, 32)
        found = denoised(PyramidPrior(prior, (32, 32)), x, sigma)
        assert prior.asked == pytest.approx(spoken), sigma
        coarse = x  # the score is zero, so what is denoised is as it was, and finer than that there is nothing
        silent = round(math.log2(sigma / spoken[0]))
        for _ in range(silent):
            coarse = halved(coarse)
        for _ in range(silent):
            coarse = doubled(coarse, tuple(2 * side for side in coarse.shape[2:]))
        torch.testing.assert_close(found, coarse)


def test_ladders_begin_higher_for_coarser_scales():
    pyramid = PyramidPrior(soft_blobs(SHAPE), (40, 33))
    options = Sampling("ep", levels=4).options([pyramid])
    own = (1.3, 0.8766667, 0.4533333, 0.03)  # of them the first two are the highest octave
    assert options["sigmas"] == pytest.approx((5.2, 3.5066667, 2.6, 1.7533333, *own))
    papers = Sampling("langevin").options([pyramid])["sigmas"]
    assert papers[:6] == pytest.approx((4, 2.3979370, 2, 1.1989685, 1, 0.59948425))
    assert (len(papers), papers[-1]) == (14, pytest.approx(0.01))
    assert Sampling("ep", levels=4, sigma_max=0.5).options([pyramid])["sigmas"][0] == pytest.approx(0.5)
    assert Sampling().over(Decompress.defaults).options([pyramid])["sigmas"][0] == pytest.approx(0.2)


@pytest.mark.parametrize("sampler", ["ep", "langevin", "mmps"])
def test_a_pyramid_separates(sampler):
    y = torch.rand(2, 1, 17, 32, generator=torch.Generator().manual_seed(0))
    pyramid = PyramidPrior(soft_blobs(SHAPE), (17, 32))
    sampling = Sampling(sampler, levels=3, steps=2 if sampler == "langevin" else None)
    result = tasks.separate(y, k=2, prior=pyramid, sampling=sampling)
    assert result.components.shape == (2, 2, 1, 1, 17, 32)
    assert float(result.residual.max()) < 1
    tiled = tasks.separate(y, k=2, prior=TiledPrior(soft_blobs(SHAPE), (17, 32)), sampling=sampling)
    assert not torch.allclose(tiled.components, result.components, atol=0.01)
    ranked = tasks.separate(y, k=2, prior=pyramid, samples=2, sampling=sampling)
    assert ranked.evaluations == 2 * (result.evaluations + 9)  # an octave more than the 8 levels of other priors


def test_samples_of_a_pyramid_are_ranked_by_their_large_shapes_too():
    """At the levels of other priors, and above them two octaves more in steps of about the same size."""

    class Recording(PyramidPrior):
        def at(self, sigma):
            asked.append(sigma)
            return super().at(sigma)

    asked = []
    ranking.log_likelihood([Recording(Telling(), (32, 32))], torch.rand(1, 2, 1, 32, 32))
    levels = asked[1:]  # the first is to see whether there is a likelihood
    assert (len(levels), levels[0], levels[-1]) == (11, pytest.approx(3.2), pytest.approx(0.03))
    assert [low / high for high, low in itertools.pairwise(levels)] == pytest.approx([0.6268984] * 10, rel=1e-6)


def test_a_pyramid_needs_any_noise_level():
    with pytest.raises(UsageError, match="any noise level"):
        PyramidPrior(Constant(), (32, 32))
