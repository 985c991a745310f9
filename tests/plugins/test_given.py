"""Score networks of pictures of which a part is given: what is projected, preconditioned, learned and refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from basis_ncsn import given, prior, training
from basis_ncsn.unet import UNet

import basis_cli
from basis_cli.api import Conditional
from basis_cli.data.datasets import Dataset
from basis_cli.errors import UsageError
from basis_cli.operators import Downsample, Gray, Jpeg, Mask
from basis_cli.posterior import Sampling, conditioned
from basis_cli.priors import PyramidPrior, TiledPrior
from basis_cli.tasks.colorization import Colorize
from basis_cli.training import Settings

LUMA = (0.299, 0.587, 0.114)
CONFIG = {"channels": 3, "widths": (16, 32), "blocks": 1, "attention": False, "given": ("gray", "mask", "shrunk")}


def network(**changes):
    torch.manual_seed(0)
    net = UNet(**CONFIG | changes)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.05 * torch.randn(parameter.shape)
    return net.eval()


@pytest.mark.parametrize("kind", given.KINDS)
def test_noise_is_projected_onto_what_the_operator_leaves_open(kind):
    x, generator = torch.rand(64, 3, 16, 16), torch.Generator().manual_seed(0)
    unknown = given.KINDS[kind].random(x, generator)
    assert torch.allclose(unknown(unknown(x)), unknown(x), atol=1e-6)
    overlap = (unknown(x) * (x - unknown(x))).sum((1, 2, 3))  # orthogonal
    assert overlap.abs().max() < 1e-3
    assert (unknown(x).flatten(1).abs().amax(1) > 0.01).all()
    assert ((x - unknown(x)).flatten(1).abs().amax(1) > 0.01).all()


@pytest.mark.parametrize(
    ("operator", "projection"),
    [
        (Gray(LUMA), given.of_gray(torch.tensor(LUMA).view(3, 1, 1))),
        (Downsample(4, (16, 16)), given.of_shrunk(4)),
        (Mask(torch.arange(16) < 5), given.of_mask((torch.arange(16) < 5).float().expand(1, 1, 16, 16))),
    ],
)
def test_projections_are_those_of_the_operators(operator, projection):
    x = torch.rand(2, 3, 16, 16)
    assert torch.allclose(projection(x), (x[None] - operator.pinv(operator(x[None])))[0], atol=1e-6)


@pytest.mark.parametrize("sigma", [0.05, 3.0])
def test_what_is_known_is_scaled_as_without_noise_and_kept(monkeypatch, sigma):
    net, x = network(), torch.rand(2, 3, 16, 16)
    unknown, seen = given.of_gray(torch.tensor(LUMA).view(3, 1, 1)), {}
    raw = net.raw
    monkeypatch.setattr(net, "raw", lambda x, c, partial: seen.update(x=x, partial=partial) or raw(x, c, partial))
    with torch.no_grad():
        denoised = net(x, torch.tensor([sigma]), unknown)
    centred, scaled = x - net.mean, seen["x"]
    assert torch.allclose(scaled - unknown(scaled), (centred - unknown(centred)) / net.std, atol=1e-5)
    assert torch.allclose(unknown(scaled), unknown(centred) / (sigma**2 + net.std**2) ** 0.5, atol=1e-5)
    assert seen["partial"]
    assert torch.allclose(denoised - unknown(denoised), x - unknown(x), atol=1e-6)


def test_the_loss_leaves_alone_what_is_given():
    """A network that returns what it gets has the error of the noise: in half of a picture, half of it."""
    x = torch.rand(4000, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    mask = given.Kind(lambda x, generator: given.of_mask((torch.arange(4) < 2).float().expand(1, 1, 4, 4)), 1.4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(given.KINDS, "half", mask)
        loss = training.given_loss(
            lambda x, sigma, unknown: x, x, torch.Generator().manual_seed(0), 0.25, ["half"], share=1.0
        )
    sigma = training.random_levels(x, torch.Generator().manual_seed(1))
    expected = ((sigma**2 + 0.25**2) / 0.25**2).mean() / 2
    assert float(loss) == pytest.approx(float(expected), rel=0.03)


def trained(folder, start_from=None, kinds=("gray", "mask")):
    images = np.random.default_rng(0).integers(0, 256, (40, 3, 16, 16), dtype=np.uint8)
    data = Dataset("toy", "train", images, np.zeros(40, np.int64))
    settings = Settings(steps=4, batch=8, warmup=1, learning_rate=1e-2, optimizer="adam")
    config = CONFIG | {"given": kinds}
    del config["channels"]
    return training.train(data, data, folder, settings, config=config, start_from=start_from)


def test_a_trained_file_knows_what_it_has_learned(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "sheet", lambda *_: None)
    path = trained(tmp_path / "first", kinds=())
    plain = basis_cli.load_prior("ncsn", weights_path=path)
    assert plain.given(Gray(LUMA)) is None
    path = trained(tmp_path / "second", start_from=path)  # which has no embedding of what is given
    knowing = basis_cli.load_prior("ncsn", weights_path=path)
    assert isinstance(knowing, Conditional)
    assert knowing.given(Gray(LUMA)) is not None
    assert knowing.given(Gray()) is not None
    assert knowing.given(Gray((1.0, 0.0, 0.0))) is None
    assert knowing.given(Mask(torch.eye(16))) is not None
    assert knowing.given(Mask(torch.rand(3, 16, 16) > 0.5)) is None  # channels apart are another task
    assert knowing.given(Downsample(2, (16, 16))) is None
    assert knowing.given(Jpeg([[16] * 64] * 2, (16, 16))) is None


def prior_of(net, size=(16, 16)):
    return prior.AnySizePrior(net, (3, *size))


@pytest.mark.parametrize("wrap", [prior_of, TiledPrior, PyramidPrior])
@pytest.mark.parametrize("size", [(16, 16), (33, 20), (70, 90)])
def test_colours_of_any_size_keep_the_gray(size, wrap):
    """In tiles and at every scale as well."""
    whole = prior_of(network(), size)
    knowing = whole if wrap is prior_of else wrap(prior_of(network()), size, 8)
    gray = torch.rand(2, 1, *size)
    posterior = conditioned([knowing], Gray(LUMA), Sampling(levels=3, seed=1), {"sampler": "project"}, {})
    assert posterior.sampling.sampler == "conditional"
    x = posterior.sample(gray, [0, 1])
    assert (Gray(LUMA)(x) - gray).abs().max() < 1e-4
    assert (x[0] - gray).abs().max() > 0.01


def test_colours_of_a_large_picture_are_settled_from_coarse_to_fine():
    knowing = prior_of(network())
    task = Colorize()
    assert isinstance(task.suited([knowing], (64, 48))[0], PyramidPrior)
    assert not isinstance(task.suited([knowing], (20, 20))[0], PyramidPrior)
    assert not isinstance(task.suited([prior_of(network(given=()))], (64, 48))[0], PyramidPrior)


def test_noise_in_the_picture_or_another_sampler_take_the_prior_of_whole_pictures():
    gray, knowing = torch.rand(1, 1, 16, 16), prior_of(network())
    for sampling in (Sampling(levels=2, noise_std=0.1), Sampling("project", 2)):
        assert basis_cli.colorize(gray, prior=knowing, sampling=sampling).settings["sampler"] == "project"
    with pytest.raises(UsageError, match="has not learned"):
        basis_cli.colorize(gray, prior=prior_of(network(given=())), sampling=Sampling("conditional", 2))


def test_a_sample_does_not_depend_on_its_batch():
    gray, knowing = torch.rand(3, 1, 16, 16), prior_of(network())
    together = basis_cli.colorize(gray, prior=knowing, sampling=Sampling(levels=3))
    alone = basis_cli.colorize(gray[1:2], prior=knowing, sampling=Sampling(levels=3))
    assert torch.equal(together.components[:, 1], alone.components[:, 0])
