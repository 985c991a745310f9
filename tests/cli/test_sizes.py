"""Priors of any size: from a file of whatever size and kind to an answer, without options."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import basis_cli
from basis_cli.data.images import LUMA
from basis_cli.errors import InputError, UsageError
from basis_cli.operators import Downsample, Gray
from basis_cli.posterior import Sampling
from basis_cli.priors import tiles
from basis_cli.priors.tiles import PyramidPrior, TiledPrior, about_tiles, in_words, suited
from basis_cli.samplers import project
from basis_cli.tasks.colorization import Colorize

ANY = """
    from basis_cli.api import PriorSpec, hookimpl

    @hookimpl
    def basis_priors():
        return [PriorSpec("any", "White noise about a colour", (3, 8, 8), load="anysize:load", any_size=True)]

    def load(spec, weights, device):
        from test_sizes import White
        return White(spec.shape)
"""
QUICK = Sampling(levels=3)


class White:
    """Independent pixels about one colour: on the whole picture, in tiles, shrunk, its score is known."""

    sigmas, variance = None, 0.04

    def __init__(self, shape, sigma=None):
        self.shape, self.sigma = shape, sigma
        self.mean = torch.linspace(0.3, 0.7, shape[0]).view(-1, 1, 1)

    def sized(self, size):
        return White((self.shape[0], *size))

    def at(self, sigma):
        return White(self.shape, sigma)

    def score(self, x):
        assert tuple(x.shape[1:]) == tuple(self.shape)
        return (self.mean - x) / (self.variance + self.sigma**2)


def test_a_picture_is_seen_as_a_whole_and_beyond_memory_in_large_tiles(monkeypatch):
    prior = White((3, 8, 8))
    (one, other) = suited([prior, prior], (23, 40), pyramid=False)
    assert one is other
    assert isinstance(one, White)
    assert one.shape == (3, 23, 40)
    monkeypatch.setattr(tiles, "WHOLE", 500)
    monkeypatch.setattr(tiles, "LARGE_TILE", 16)
    monkeypatch.setattr(tiles, "LARGE_OVERLAP", 6)
    for size, tile, overlap in (((23, 40), [16, 16], [6, 6]), ((3, 200), [3, 16], [1, 1]), ((501, 1), [16, 1], [0, 0])):
        (tiled,) = suited([prior], size, pyramid=False)
        assert isinstance(tiled, TiledPrior)
        assert (tiled.tile, tiled.overlaps) == (tile, overlap)
        x = torch.rand(2, 3, *size)
        torch.testing.assert_close(tiled.at(0.3).score(x), prior.sized(size).at(0.3).score(x))


def test_where_large_shapes_matter_every_scale_is_seen_as_a_whole():
    (small,) = suited([White((3, 8, 8))], (15, 40), pyramid=True)
    assert isinstance(small, White)
    (pyramid,) = suited([White((3, 8, 8))], (33, 40), pyramid=True)
    assert isinstance(pyramid, PyramidPrior)
    assert [scale.shape for scale in pyramid.scales] == [(3, 33, 40), (3, 17, 20), (3, 9, 10)]
    assert about_tiles(pyramid) == {"count": [1, 1, 1], "size": [33, 40], "overlap": [0, 0]}
    assert in_words(pyramid) == "40 x 33 at 3 scales"
    assert in_words(small) == "40 x 15 as a whole"
    assert in_words(TiledPrior(small.sized((8, 8)), (15, 40))) == "40 x 15 in 27 tiles of 8 x 8"


def test_colours_begin_with_gray_however_the_gray_is_weighted():
    """The nearest to medium gray with that brightness would be green where it is bright and purple where it is dark."""
    y, started = torch.rand(1, 1, 4, 6), []
    prior = White((3, 4, 6))
    prior.mean = torch.full((3, 1, 1), 0.5)
    project([prior], Gray(LUMA), y, seeds=[0], sigmas=[1e-6], watch=lambda progress: started.append(progress.x))
    torch.testing.assert_close(started[0][0], y.expand(-1, 3, -1, -1), atol=1e-3, rtol=0)


def test_the_library_takes_pictures_of_any_size():
    small, prior = torch.rand(2, 3, 5, 9), White((3, 8, 8))
    result = basis_cli.upscale(small, 3, prior=prior, sampling=QUICK)
    assert result.components.shape == (1, 2, 1, 3, 15, 27)
    assert result.residual.max() < 1
    assert basis_cli.colorize(small[:, :1], prior=prior, sampling=QUICK).components.shape == (1, 2, 1, 3, 5, 9)
    assert basis_cli.separate(small, k=3, prior=prior, sampling=QUICK).components.shape == (3, 2, 1, 3, 5, 9)
    operator = Downsample(2, (6, 10))
    y = operator(torch.rand(1, 2, 3, 6, 10))
    result = basis_cli.restore(y, operator, size=(6, 10), prior=prior, sampling=QUICK)
    assert result.components.shape == (1, 2, 1, 3, 6, 10)
    with pytest.raises(UsageError, match="different sizes"):
        basis_cli.inpaint([small[0], small[1, :, :4]], "right", prior=prior)
    with pytest.raises(InputError, match="models"):
        basis_cli.inpaint(torch.rand(2, 2, 5, 9), "right", prior=prior)


def test_gray_pictures_are_answered_in_gray_whatever_stands_beside_them():
    gray, colour = torch.rand(1, 6, 10).expand(3, -1, -1), torch.rand(3, 6, 10)
    prior, both = White((3, 8, 8)), torch.stack([colour, gray])
    x = basis_cli.inpaint(both, "right", prior=prior, sampling=QUICK).components[0, :, 0]
    assert torch.equal(x[1], x[1, :1].expand(3, -1, -1))
    assert not torch.equal(x[0], x[0, :1].expand(3, -1, -1))
    for i, picture in enumerate((colour, gray[:1])):
        alone = basis_cli.inpaint(picture, "right", prior=prior, sampling=QUICK).components[0, 0, 0]
        assert torch.equal(alone, x[i])


def test_the_commands_take_whatever_size_comes(basis, plugin, photo, picture, monkeypatch):
    plugin("anysize", ANY)
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    options = ["--prior", "any", "--levels", 3, "--quiet"]
    photo("a.jpg", (20, 30)), photo("b.jpg", (3, 9)), picture("c.jpg", size=(11, 16))
    result = basis("decompress", "a.jpg", "b.jpg", "c.jpg", *options)
    assert result.exit_code == 0, result.output
    assert [Image.open(f"out/{stem}.x1.png").size for stem in "abc"] == [(30, 20), (9, 3), (16, 11)]
    assert basis("upscale", "a.jpg", "--factor", 3, *options, "-o", "large").exit_code == 0
    assert Image.open("large/a.x1.png").size == (90, 60)
    assert basis("inpaint", "a.jpg", "--mask", "center", *options, "-o", "filled").exit_code == 0
    assert basis("colorize", "c.jpg", "--fit", "crop", *options, "-o", "coloured").exit_code == 0
    assert Image.open("coloured/c.x1.png").size == (8, 8)  # the size it learned from, where it is asked for
    listed = {row["name"]: row for row in json.loads(basis("priors", "list", "--json").stdout)}
    assert listed["any"]["any_size"]
    assert not listed["toy-gaussian"]["any_size"]


@pytest.mark.parametrize(("holes", "levels"), [("scattered", 25), ("wide", 50)])
def test_narrow_gaps_are_filled_by_fewer_levels_and_less_noise(holes, levels):
    mask = torch.rand(1, 24, 24, generator=torch.Generator().manual_seed(0)).lt(0.7).float()
    if holes == "wide":
        mask[:, 4:20, 4:20] = 1
    prior = White((3, 8, 8))
    settings = basis_cli.inpaint(torch.rand(3, 24, 24), mask, prior=prior).settings
    assert (settings["levels"], settings["overrelaxation"]) == (levels, 0.9 if levels == 25 else 0.0)
    chosen = basis_cli.inpaint(torch.rand(3, 24, 24), mask, prior=prior, sampling=Sampling(levels=3)).settings
    assert chosen["levels"] == 3


def test_photographs_need_no_options():
    assert Colorize.prior == "ncsn-photo"
    x = np.random.default_rng(0).random((3, 9, 13), np.float32)
    result = basis_cli.inpaint(x, "right", sampling=Sampling(levels=2))
    assert result.components.shape == (1, 1, 1, 3, 9, 13)


def test_a_picture_that_the_default_does_not_model_is_told_of_the_one_that_takes_any(basis, photo):
    result = basis("separate", photo("double.png", (40, 50)))
    assert result.exit_code == 1
    assert "the prior models 28 x 28" in result.stderr
    assert "--prior ncsn-photo" in result.stderr
