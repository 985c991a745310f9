"""``basis separate --mixing``: what is told by itself, what is recorded, what explains the file."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

QUICK = ["--prior", "toy-mixture", "--sampler", "ep", "--levels", "4", "--quiet", "--json"]
PROJECT = ["--prior", "toy-mixture", "--levels", "8", "--quiet", "--json"]


def answered(result):
    assert result.exit_code == 0, result.output
    (record,) = json.loads(result.stdout)["results"]
    return record, *(np.asarray(Image.open(name), float) for name in record["answers"][0]["components"])


@pytest.fixture
def bright(tmp_path):
    """A picture whose upper half is white."""
    pixels = np.random.default_rng(0).integers(60, 200, (8, 8), dtype=np.uint8)
    pixels[:4] = 255
    Image.fromarray(pixels).save(tmp_path / "mix.png")
    return pixels.astype(float)


MADE = {
    "max": lambda a, b: np.maximum(a, b),
    "screen": lambda a, b: 255 - (255 - a) * (255 - b) / 255,
    "sum": lambda a, b: np.minimum(a + b, 255),
    "over": lambda a, b: 0.5 * a + 0.5 * b,
}


@pytest.mark.parametrize("mixing", MADE)
def test_components_make_the_file(basis, bright, mixing):
    record, *components = answered(basis("separate", "mix.png", "--mixing", mixing, *QUICK))
    assert np.abs(MADE[mixing](*components) - bright).mean() < 3
    assert (record["settings"]["operator"] == "Saturated of Mixture") == (mixing == "sum")


def test_white_is_told(basis, bright):
    cut = basis("separate", "mix.png", "--mixing", "sum", *QUICK, "-o", "cut")
    assert "cut at white in 50%" in cut.stderr
    assert "--mixing sum" in basis("separate", "mix.png", *QUICK, "-o", "mean").stderr
    assert "white" not in basis("separate", "mix.png", "--alpha", ".7,.3", *QUICK, "-o", "given").stderr


def test_a_jpeg_file_is_explained_up_to_what_it_lost(basis, picture):
    pixels = np.asarray(Image.open(picture()))
    Image.fromarray(pixels).save("mix.jpg", quality=60)
    result = basis("separate", "mix.jpg", *QUICK)
    record, *components = answered(result)
    assert "JPEG" in result.stderr
    assert record["settings"]["operator"] == "Jpeg of Mixture"
    Image.fromarray((sum(components) / 2).round().astype(np.uint8)).save("again.jpg", quality=60)
    assert np.abs(np.asarray(Image.open("again.jpg"), float) - np.asarray(Image.open("mix.jpg"), float)).mean() < 6


def test_negatives_of_what_the_prior_knows(basis, picture):
    pixels = np.asarray(Image.open(picture()))
    Image.fromarray(255 - pixels).save("negative.png")
    plain = ["--prior", "toy-mixture", "--sampler", "project", "--levels", "30", "--quiet", "--json"]
    one, *positive = answered(basis("separate", "mix.png", *plain, "-o", "one"))
    two, *negative = answered(basis("separate", "negative.png", "--invert", *plain, "-o", "two"))
    assert max(record["answers"][0]["residual_8bit_rms"] for record in (one, two)) < 1
    assert np.abs(sum(positive) + sum(negative) - 2 * 255).mean() < 3


@pytest.mark.parametrize(
    "options",
    [["--mixing", "max", "--alpha", "1,1"], ["--mixing", "over", "--alpha", ".5,.5"], ["--mixing", "multiply"]],
)
def test_what_cannot_be_is_said(basis, picture, options):
    result = basis("separate", picture(), *options, *QUICK)
    assert result.exit_code == 2


def test_coefficients_that_are_not_known_are_in_the_record(basis, picture):
    record, *_ = answered(basis("separate", picture(), "--alpha", "auto", *QUICK))
    alpha = record["answers"][0]["alpha"]
    assert len(alpha) == 2
    assert sum(alpha) == pytest.approx(1, abs=0.2)
    assert record["evaluations"] == 4 * (4 * 2)  # the toy prior's own likelihood chooses
    for refused in (["--mixing", "max"], ["--sampler", "conjugate"], ["--resume"]):
        assert basis("separate", "mix.png", "--alpha", "auto", *QUICK, "-o", "no", *refused).exit_code == 2


def test_several_mixtures_of_the_same_pictures(basis, tmp_path):
    random = np.random.default_rng(0)
    a, b = random.integers(0, 256, (2, 8, 8))
    for name, share in (("one", 0.65), ("two", 0.4)):
        Image.fromarray((share * a + (1 - share) * b).round().astype(np.uint8)).save(tmp_path / f"{name}.png")
    together = ["one.png", "two.png", "--together"]
    record, *components = answered(basis("separate", *together, "--alpha", ".65,.35;.4,.6", *QUICK))
    for found, true in zip(components, (a, b), strict=True):
        assert np.abs(found - true).mean() < 4
    assert record["settings"]["operator"] == "Mixtures"
    assert record["together_with"] == ["two.png"]
    assert set(record["inputs_sha256"]) == {"one.png", "two.png"}
    assert "byte for byte" in basis("rerun", "out/one.json", "-o", "again").stderr
    unknown, *_ = answered(basis("separate", *together, "--alpha", "auto", *QUICK, "-o", "auto"))
    assert np.array(unknown["answers"][0]["alpha"]).shape == (2, 2)
    for refused in ([], ["--alpha", ".5,.5"], ["--alpha", "auto", "-k", "3"], ["--alpha", "auto", "--mixing", "sum"]):
        assert basis("separate", *together, *refused, *QUICK, "-o", "no").exit_code == 2
    Image.fromarray(np.zeros((4, 4), np.uint8)).save("two.png")
    assert basis("separate", *together, "--alpha", "auto", *QUICK, "-o", "no").exit_code == 1


def test_a_guide_says_what_a_component_is_like(basis, picture):
    plain, *_ = answered(basis("separate", picture(), *QUICK))
    Image.open(plain["answers"][0]["components"][1]).save("like.png")
    guide = ["--guide", "like.png", "--guide-std", ".05"]
    record, first, _ = answered(basis("separate", "mix.png", *guide, *QUICK, "-o", "guided"))
    assert np.abs(first - np.asarray(Image.open("like.png"), float)).mean() < 8
    assert "like.png" in record["inputs_sha256"]
    assert basis("separate", "mix.png", *guide * 3, *QUICK, "-o", "no").exit_code == 2
    assert basis("separate", "mix.png", "--guide", "like.png", "--guide-std", "0", *QUICK, "-o", "no").exit_code == 2
    assert basis("separate", "mix.png", "--guide", "none.png", *QUICK, "-o", "no").exit_code == 1


def test_noise_is_measured_and_said(basis, tmp_path):
    noisy = 128 + 25 * np.random.default_rng(0).standard_normal((32, 32))
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(tmp_path / "mix.png")
    loud = [each for each in QUICK if each != "--quiet"]
    result = basis("separate", "mix.png", "--noise-std", "auto", "--tile", *loud)
    assert "mix.png: noise of 0.09" in result.stderr or "mix.png: noise of 0.1" in result.stderr
    record, *_ = answered(result)
    assert record["settings"]["noise_std"] == pytest.approx(0.098, rel=0.1)
    assert basis("separate", "mix.png", "--noise-std", "much", *QUICK, "-o", "no").exit_code == 2


def test_a_component_out_of_focus(basis, picture):
    from scipy.ndimage import gaussian_filter

    pixels = np.asarray(Image.open(picture()), float)
    record, sharp, other = answered(basis("separate", "mix.png", "--alpha", ".7,.3", "--blur", "0,1.5", *PROJECT))
    assert record["settings"]["blur"] == [0, 1.5]
    assert np.abs(0.7 * sharp + 0.3 * gaussian_filter(other, 1.5, truncate=8) - pixels).mean() < 3


def test_a_reflection_is_dimmer_and_out_of_focus(basis, bright):
    record, *_ = answered(basis("separate", "mix.png", "--mixing", "reflection", *PROJECT))
    settings = record["settings"]
    assert (settings["alpha"], settings["blur"]) == ([1, 0.3], [0, 3])
    assert settings["operator"] == "Saturated of Blurred"
    auto = ["--blur", "0,1", "--alpha", "auto", *PROJECT, "-o", "auto"]
    record, *_ = answered(basis("separate", "mix.png", *auto))
    assert len(record["answers"][0]["alpha"]) == 2
    for wrong in (["--blur", "1"], ["--blur", "0,-1"], ["--blur", "0,x"], ["--blur", "0,2", "--mixing", "max"]):
        assert basis("separate", "mix.png", *wrong, *PROJECT, "-o", "no").exit_code == 2
    assert basis("separate", "mix.png", "--blur", "0,2", *QUICK, "-o", "no").exit_code == 2  # ep
