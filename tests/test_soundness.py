"""Whether a prior is sound: the built-in ones are, and each mistake is told from the others."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from basis_cli import plugins
from basis_cli.api import DenoiserPrior, InputError, load_prior
from basis_cli.data import images
from basis_cli.evaluation.soundness import INPUTS, OUTPUTS, check, separation_seconds

TOY = load_prior("toy-mixture", device="cpu")
PICTURES = TOY.sample(32, torch.Generator().manual_seed(0)).float()
EXAMPLES = Path(__file__).parents[1] / "examples"


class Wrong:
    """The toy prior with a mistake: ``score(x, sigma)`` in place of its own, and perhaps a ``log_prob``."""

    shape, sigmas = TOY.shape, None

    def __init__(self, score, log_prob=None):
        self._score, self._log_prob = score, log_prob

    def at(self, sigma: float):
        level = type("Level", (), {})()
        level.score = lambda x: self._score(x, sigma)
        if self._log_prob:
            level.log_prob = lambda x: self._log_prob(x, sigma)
        return level


def right(x: Tensor, sigma: float) -> Tensor:
    return TOY.at(sigma).score(x)


def clean(x: Tensor, sigma: float) -> Tensor:
    return x + sigma**2 * right(x, sigma)


MISTAKES = {
    "another shape": (lambda x, s: right(x, s).flatten(1), "shape: (32, 64)"),
    "another type": (lambda x, s: right(x, s).double(), "type: float64"),
    "not a tensor": (lambda x, s: right(x, s).numpy(), "returns: ndarray"),
    "changes its input": (lambda x, s: right(x.mul_(0.5), s), "its input: changed"),
    "not finite": (lambda x, s: right(x, s) / (s > 0.05), "finite: not at noise 0.03"),
    "raises": (lambda x, s: x.reshape(7, 7), "runs: RuntimeError: shape"),
    "refuses": (lambda x, s: _refuse(), "runs: no such level"),
    "random": (lambda x, s: right(x, s) + 0.1 * torch.randn_like(x), "the same twice"),
    "batch statistics": (lambda x, s: right(x, s) - 0.1 * right(x, s).mean(0), "the same alone"),
    "one noise level": (lambda x, s: right(x, 0.3), "knows the noise level"),
    "sign": (lambda x, s: -right(x, s), "the sign of its score is wrong"),
    "twice": (lambda x, s: 2 * right(x, s), "twice what it should be"),
    "half": (lambda x, s: right(x, s) / 2, "half of what it should be"),
    "noise": (lambda x, s: -s * right(x, s), "it returns the noise"),
    "minus the noise": (lambda x, s: s * right(x, s), "it returns minus the noise"),
    "residual": (lambda x, s: s**2 * right(x, s), "it returns D(x) - x"),
    "picture": (lambda x, s: clean(x, s), "it returns the denoised picture D(x)"),
    "noise doubled": (lambda x, s: 4 * right(x, 2 * s), "noise for twice as strong"),
    "noise doubled throughout": (lambda x, s: right(x, 2 * s), "noise for twice as strong"),
    "noise halved": (lambda x, s: right(x, s / 2) / 4, "noise for half as strong"),
    "[0, 1] for [-1, 1]": (lambda x, s: right((x + 1) / 2, s / 2) / 2, "wants pictures in [-1, 1] and gets [0, 1]"),
    "[-1, 1] for [0, 1]": (lambda x, s: 2 * right(2 * x - 1, 2 * s), "wants pictures in [0, 1] and gets [-1, 1]"),
    "[0, 1] for [0, 255]": (lambda x, s: right(x / 255, s / 255) / 255, "wants pictures in [0, 255] and gets [0, 1]"),
}


def _refuse():
    raise InputError("no such level")


def test_a_sound_prior_is_sound_on_pictures_and_on_what_it_draws():
    for found in (check(TOY, PICTURES), check(TOY), check(load_prior("toy-gaussian", device="cpu"))):
        assert (found.verdict, found.sound) == ("sound", True)
    assert [level["sigma"] for level in found.levels] == sorted(
        (level["sigma"] for level in found.levels), reverse=True
    )
    assert found.milliseconds > 0
    assert found.bytes >= 4 * math.prod(TOY.shape)
    assert separation_seconds(TOY, found) == pytest.approx(2 * 50 * found.milliseconds / 1000)  # ep: two a level of 25


@pytest.mark.parametrize("name", MISTAKES)
def test_each_mistake_is_named(name):
    score, verdict = MISTAKES[name]
    found = check(Wrong(score), PICTURES.clone())
    assert not found.sound
    assert verdict in found.verdict
    others = {words for _, words in MISTAKES.values()} - {verdict}
    assert not any(words in found.verdict for words in others)


def test_every_mistake_that_can_be_named_is_tested():
    for name in filter(None, [*INPUTS, *OUTPUTS]):
        assert any(verdict in name for _, verdict in MISTAKES.values()), name


def test_log_prob_is_compared_with_the_score():
    bits = Wrong(right, lambda x, s: TOY.at(s).log_prob(x) / math.log(2))
    assert "not the gradient of its log_prob" in check(bits, PICTURES).verdict
    assert check(Wrong(right, lambda x, s: TOY.at(s).log_prob(x)), PICTURES).sound


def test_without_pictures_it_says_what_can_be_seen():
    assert "sign" in check(Wrong(MISTAKES["sign"][0])).verdict
    assert "size" in check(Wrong(MISTAKES["twice"][0])).verdict
    assert "not in [0, 1]" in check(Wrong(MISTAKES["[0, 1] for [-1, 1]"][0])).verdict


@pytest.mark.parametrize("value_range", [(0, 1), (-1, 1), (0, 255)])
def test_a_denoiser_of_any_range_is_the_prior_it_was_made_of(value_range):
    low, high = value_range

    def denoise(x: Tensor, sigma: float) -> Tensor:
        return low + (high - low) * clean((x - low) / (high - low), sigma / (high - low))

    prior = DenoiserPrior(denoise, TOY.shape, value_range)
    x = PICTURES + 0.2 * torch.randn(PICTURES.shape, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(prior.at(0.2).score(x), right(x, 0.2), rtol=1e-3, atol=1e-3)
    assert check(prior, PICTURES).sound


def test_a_denoiser_refuses_noise_that_it_does_not_know():
    prior = DenoiserPrior(clean, TOY.shape, sigmas=(0.3, 0.1))
    prior.at(0.3), prior.at(0.2), prior.at(0.1)
    for sigma in (0.31, 0.09):
        with pytest.raises(InputError, match="from 0.1 to 0.3"):
            prior.at(sigma)
    assert check(prior, PICTURES).sound


def test_a_denoiser_sees_a_single_picture_as_one_of_a_batch():
    conv = torch.nn.Conv2d(1, 1, 3, padding=1).requires_grad_(False)
    level = DenoiserPrior(lambda x, sigma: conv(x), (1, 28, 28)).at(0.3)
    x = torch.rand(5, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    assert torch.equal(level.score(x)[:1], level.score(x[:1]))


def of_its_kind(shape: tuple[int, int, int]) -> Tensor:
    """An example picture of the kind that a built-in prior of this shape models."""
    name = {28: "digits.a.png", 32: "horse.png"}.get(shape[1], "double.png")
    pixels = images.square(EXAMPLES / name, shape[1], None, shape[0])
    return torch.from_numpy(pixels.astype(np.float32) / 255)[None]


BUILT_IN = [name for plugin in plugins.plugins() if plugin.name in ("ncsn", "glow") for name in plugin.priors]


@pytest.mark.parametrize("name", [name for name in BUILT_IN if plugins.prior_spec(name).weights])
def test_built_in_priors_are_sound(name):
    prior = load_prior(name, device="cpu")
    sigmas = (0.4,) if name.startswith("glow") else (0.5, 0.2)  # a Glow is slow
    found = check(prior, of_its_kind(prior.shape), sigmas=sigmas)
    assert found.verdict == "sound"
