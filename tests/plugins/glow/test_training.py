"""Training a Glow: likelihood, score matching, whitening, starting weights."""

from __future__ import annotations

import json
import math

import pytest
import torch
from basis_glow import gaussians, prior, training
from basis_glow.network import Glow
from torch import Tensor, nn

from basis_cli.errors import UsageError
from basis_cli.training import Settings

TINY = {"levels": 2, "depth": 2, "width": 8}


TINY = {"levels": 2, "depth": 2, "width": 8}
QUICK = {"steps": 6, "batch": 8, "warmup": 2, "save_every": 2, "optimizer": "adam", "bf16": False}


class Normal(nn.Module):
    """The density of pixels that are independent, with mean 1/2 and the standard deviation that Glow expects."""

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        std = (sigma**2 + gaussians.DATA_STD**2).sqrt()[:, None, None, None]
        return torch.distributions.Normal(0.5, std).log_prob(x).flatten(1).sum(1)


@pytest.mark.parametrize("conditional", [False, True])
def test_training_raises_the_likelihood(tmp_path, conditional, tiny, train):
    train(tmp_path, conditional, steps=40, sheet_every=20, learning_rate=3e-3)
    metrics = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    sigma = 0.1 if conditional else 0.0
    untrained = Glow((1, 8, 8), **TINY, conditional=conditional)
    pictures = tiny("test")[:]
    before = training.measured(untrained, pictures, [sigma])
    assert metrics[f"bits_per_dim_{sigma:.6g}"] < before[f"bits_per_dim_{sigma:.6g}"] - 1
    assert (tmp_path / "samples-0000040.png").exists()
    assert prior.read(tmp_path / "weights.safetensors")[1] == (None if conditional else 0.0)


def test_the_error_of_a_true_score_is_one_at_every_level_and_it_can_be_learned_from():
    generator = torch.Generator().manual_seed(0)
    x = 0.5 + gaussians.DATA_STD * torch.randn(3, 1, 200, 200, generator=generator)
    x.requires_grad_()  # stands in for parameters
    sigma = torch.tensor([0.0, 0.1, 1.0])
    bits, error = training.bits_and_score_error(Normal(), x, sigma, generator)
    (slope,) = torch.autograd.grad(error.sum(), x)
    assert slope[1:].abs().sum() > 0
    assert error.tolist() == pytest.approx([0, 1, 1], abs=0.03)
    entropy = 0.5 * (2 * math.pi * math.e * (sigma**2 + gaussians.DATA_STD**2)).log2() + math.log2(255)
    assert bits.tolist() == pytest.approx(entropy.tolist(), abs=0.03)


def test_score_matching_makes_the_score_better(tmp_path, train):
    errors = []
    for weight in (0.0, 3.0):
        out = tmp_path / f"{weight}"
        train(out, True, score_matching=weight, steps=60, sheet_every=60, learning_rate=3e-3)
        last = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
        errors.append(last["score_error_1"])
    assert errors[1] < errors[0]


def test_smooth_couplings_may_begin_with_the_weights_of_others(tmp_path, start, pictures, train):
    path = train(tmp_path, smooth=True, start_from=start, steps=1, learning_rate=0.0)
    ours, published = prior.read(path)[0], prior.read(start)[0]
    assert ours.config == published.config | {"smooth": True}
    for name, tensor in published.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], tensor)
    x, sigma = pictures(2), torch.zeros(1)
    assert not torch.allclose(ours(x, sigma), published(x, sigma))
    back = prior.read(train(tmp_path / "back", start_from=path, steps=1, learning_rate=0.0))[0]
    torch.testing.assert_close(back(x, sigma), published(x, sigma))


def test_a_whitened_model_begins_with_the_pictures_own_gaussian(tmp_path, correlated, train):
    """Before anything is learned, and its file has it, too."""
    x = (255 * correlated(80).clamp(0, 1)).byte().numpy()
    errors = []
    for whiten in (6, 0):
        path = train(tmp_path / str(whiten), True, whiten=whiten, images=x, steps=1, learning_rate=0.0)
        errors.append(training.measured(prior.read(path)[0], correlated(200), [1.0])["score_error_1"])
    assert errors[0] < 0.7 * errors[1]


@pytest.mark.parametrize(
    ("conditional", "whiten", "hint"), [(False, 6, "--conditional"), (True, 65, "smaller"), (True, 40, "smaller")]
)
def test_errors_of_whitening(tmp_path, conditional, whiten, hint, train):
    with pytest.raises(UsageError) as error:
        train(tmp_path, conditional, whiten=whiten)
    assert hint in error.value.hint


def test_trains_on_squares_cut_from_the_pictures(tmp_path, train):
    assert prior.read(train(tmp_path, crops=(4,)))[0].shape == (1, 4, 4)


@pytest.mark.parametrize(("conditional", "more"), [(False, {}), (True, {"compile": True})])
def test_score_matching_needs_noise_and_second_derivatives(tmp_path, conditional, more, train):
    with pytest.raises(UsageError, match="score matching needs"):
        train(tmp_path, conditional, score_matching=1.0, **more)


def test_levels_of_a_conditional_model_are_stratified():
    sigma = training.noise_levels(200, torch.Generator().manual_seed(0), torch.device("cpu"))
    assert int((sigma == 0).sum()) == 20
    low, high = map(math.log, training.SIGMAS)
    place = (sigma[20:].log() - low) / (high - low) * 180
    assert place.floor().tolist() == list(range(180))


def test_noise_is_gaussian_and_without_it_uniform_over_an_intensity():
    x = torch.full((2, 1, 100, 100), 100 / 255)
    clean, noise = training.noisy(x, torch.tensor([0.0, 0.2]), torch.Generator().manual_seed(0)) - x
    assert clean.abs().max() <= 0.5 / 255 + 1e-6
    assert float(clean.std()) == pytest.approx(1 / 255 / math.sqrt(12), rel=0.02)
    assert float(noise.std()) == pytest.approx(0.2, rel=0.02)


def test_starting_weights_must_fit(tmp_path, start, tiny):
    for config, differ in (
        (TINY | {"width": 9}, "it has width 8"),
        (TINY | {"conditional": True}, "it has conditional 0"),
    ):
        with pytest.raises(UsageError, match="another network") as caught:
            training.train(
                tiny("train"), tiny("test"), tmp_path, Settings(**QUICK), config=config, device="cpu", start_from=start
            )
        assert caught.value.hint == differ
    with pytest.raises(UsageError, match="halved"):
        training.train(tiny("train"), tiny("test"), tmp_path, Settings(**QUICK), config={"levels": 9}, device="cpu")
