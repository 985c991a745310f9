"""Each sampler with the shipped weights separates digits better than it may never fail to; few levels, so seconds.

``digits.png`` holds the first 40 of MNIST's test digits: 20 mixtures of one from the upper and one from the lower half.
A mixture itself, taken for both digits, has 15.3 dB.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import basis_cli
from basis_cli import samplers
from basis_cli.operators import Mixture

OPERATOR = Mixture([0.5, 0.5])


@pytest.fixture(scope="module")
def digits() -> Tensor:
    """The components of 20 mixtures, ``(2, 20, 1, 28, 28)``."""
    sheet = np.asarray(Image.open(Path(__file__).with_name("digits.png")), np.float32) / 255
    return torch.from_numpy(sheet).view(2, 2, 28, 10, 28).transpose(2, 3).reshape(2, 20, 1, 28, 28)


@pytest.fixture(scope="module")
def prior():
    return basis_cli.load_prior("ncsn-mnist", device="cpu")


def psnr(components: Tensor, truth: Tensor) -> Tensor:
    """dB of both components of each mixture, ``(2, n)``, in the better of their two orders."""
    straight, crossed = (
        -10 * (x.clamp(0, 1) - truth).square().flatten(2).mean(2).log10() for x in (components, components.flip(0))
    )
    return torch.where(straight.mean(0) > crossed.mean(0), straight, crossed)


def test_a_mixture_for_both_digits_is_below_every_floor(digits):
    assert float(psnr(OPERATOR(digits).expand_as(digits), digits).mean()) == pytest.approx(15.33, abs=0.01)


def test_digits_separate_by_default(digits):
    """With 8 levels instead of 25: 29.4 dB, and 23.7 dB when little of the noise is negated."""
    eight = basis_cli.Sampling(levels=8)
    result = basis_cli.separate(OPERATOR(digits), references=digits, sampling=eight)
    assert result.settings["sampler"] == "ep"
    assert float(result.psnr.mean()) > 27
    assert int((result.psnr.amin(0) > 20).sum()) >= 14


@pytest.mark.parametrize(
    ("sampler", "n", "floor", "options"),
    [
        ("project", 20, 20.5, {"sigmas": samplers.karras(10)}),
        ("conjugate", 20, 20.0, {"sigmas": samplers.karras(10), "noise_std": 0.03}),
        ("mmps", 4, 19.0, {"sigmas": samplers.karras(15), "cg_steps": 1}),
        ("langevin", 4, 17.5, {"sigmas": samplers.geometric(10, 1, 0.05), "steps": 6, "step_size": 1e-3}),
    ],
)
def test_digits_separate(digits, prior, sampler, n, floor, options):
    truth = digits[:, :n]
    y = OPERATOR(truth)
    if noise_std := options.get("noise_std"):
        y = y + noise_std * torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        x = getattr(samplers, sampler)([prior, prior], OPERATOR, y, seeds=range(n), **options)
    assert float(psnr(x, truth).mean()) > floor, float(psnr(x, truth).mean())
