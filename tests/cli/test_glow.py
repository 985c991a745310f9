"""Glow from the command line: train, fine-tune, separate with the ladder; likelihoods and gradients of any prior."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

TINY = ["--depth", 1, "--width", 4, "--batch", 4, "--steps", 2, "--device", "cpu"]
CLIMB = ["--batch", 4, "--steps", 2, "--sigmas", "0.01,0.1", "--device", "cpu"]
QUICK = ["--sampler", "langevin", "--levels", 2, "--steps", 2, "-q"]


def test_trains_climbs_and_separates(basis, digits, picture):
    data = ["--data-dir", digits(28)]
    result = basis("train", "glow", *data, *TINY, "-o", "run")
    assert result.exit_code == 0, result.output
    assert result.stdout.split() == ["run/weights.safetensors"]
    metrics = json.loads(Path("run/metrics.jsonl").read_text().splitlines()[-1])
    assert metrics["bits_per_dim_0"] > 0
    climb = ["finetune-glow", *data, *CLIMB, "--start-from", "run/weights.safetensors", "-o", "ladder"]
    result = basis(*climb)
    assert result.exit_code == 0, result.output
    assert result.stdout.split() == ["ladder/ladder.json"]
    again = basis(*climb)
    assert again.exit_code == 2
    assert "--resume" in again.stderr
    assert basis(*climb, "--resume").exit_code == 0
    prior = ["--prior", "glow-mnist", "--weights", "ladder/ladder.json"]
    result = basis(
        "separate", picture(size=(28, 28)), *prior, "--sampler", "langevin", "--steps", 1, "--step-size", "1e-7", "-q"
    )
    assert result.exit_code == 0, result.output
    record = json.loads(Path("out/mix.json").read_text())
    assert record["evaluations"] == 2
    assert record["settings"]["sigmas"] == [0.1, 0.01]
    assert len(record["weights_sha256"]["glow-mnist"]) == 64
    report = basis("evaluate", "likelihood", *prior, *data, "--pairs", 0, "--pictures", 5, "--json")
    bits = json.loads(report.stdout)["bits_per_dim"]["mnist"]
    assert bits["test, no noise"]["mean"] > 0
    assert bits["test"]["mean"] > 0
    assert bits["separations"] is None
    noiseless = ["--prior", "glow-mnist", "--weights", "run/weights.safetensors"]
    refused = basis("separate", picture(size=(28, 28)), *noiseless, "-q", "-o", "other")
    assert refused.exit_code == 1
    assert "basis finetune-glow" in refused.stderr


def test_climbs_from_a_conditional_model(basis, digits):
    """The shipped one, if no other is given."""
    assert "models (1, 28, 28) pictures" in basis("finetune-glow", "--data-dir", digits(8)).stderr
    data = ["--data-dir", digits(28)]
    assert basis("train", "glow", "--conditional", *data, *TINY, "-o", "run").exit_code == 0
    white = basis("train", "glow", "--conditional", "--smooth", "--whiten", 5, *data, *TINY, "-o", "white")
    assert white.exit_code == 0, white.output
    mixed = ["--gaussians", 3, "--directions", 2, "--start-from", "run/weights.safetensors"]
    assert basis("train", "glow", "--conditional", *mixed, *data, *TINY, "-o", "mixed").exit_code == 0
    result = basis("finetune-glow", *data, *CLIMB, "--start-from", "mixed/weights.safetensors", "-o", "ladder")
    assert result.exit_code == 0, result.output
    rungs = json.loads(Path("ladder/ladder.json").read_text())["rungs"]
    assert [rung["sigma"] for rung in rungs] == [0.0, 0.01, 0.1]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["finetune-glow", "--prior", "glow"], 2, "--start-from"),
        (["finetune-glow", "--prior", "glow-lsun-church"], 2, "models (3, 64, 64) pictures"),
        (["finetune-glow", "--prior", "glow-minst"], 3, "did you mean 'glow-mnist'"),
        (["finetune-glow", "--sigmas", "0"], 2, "no ladder of noise levels"),
        (["finetune-glow", "--sigmas", "0.1,-1"], 2, "no ladder of noise levels"),
        (["finetune-glow", "--sigmas", "a"], 2, "no ladder of noise levels"),
        (["finetune-glow", "--start-from", "nowhere.safetensors"], 4, "nowhere.safetensors"),
        (["train", "glow", "--levels", 3], 2, "fewer --levels"),
        (["train", "glow", "--whiten", 5], 2, "--conditional"),
        (["train", "glow", "--whiten", 50, "--conditional"], 2, "20 pictures of (1, 28, 28)"),
        (["train", "glow", "--gaussians", 5], 2, "--conditional"),
        (["train", "glow", "--directions", 5, "--conditional"], 2, "--gaussians 100"),
        (["train", "glow", "--gaussians", 21, "--conditional"], 2, "20 pictures are too few"),
        (["finetune-glow", "--prior", "glow-cifar"], 2, "without whitening"),
        (["evaluate", "likelihood", "--prior", "glow"], 4, "basis train glow"),
    ],
)
def test_errors(basis, digits, arguments, code, says):
    result = basis(*arguments, "--data-dir", digits(28))
    assert result.exit_code == code, result.output
    assert says in result.stderr
    assert "Traceback" not in result.output


def test_likelihood_of_a_prior_in_closed_form(basis, digits):
    run = ["evaluate", "likelihood", "--prior", "toy-gaussian", "--data-dir", digits(), "--pairs", 3, *QUICK]
    report = json.loads(basis(*run, "--json").stdout)
    assert report["sigma"] == 0.01
    assert report["pictures"] == {"mnist": 20}
    assert all(stats["mean"] > 0 and stats["standard_error"] >= 0 for stats in report["bits_per_dim"]["mnist"].values())
    assert report["published"] == {"mnist": {"test, no noise": 0.5, "test": 3.6, "separations": 3.6}}
    table = basis(*run).stdout
    assert f"{report['bits_per_dim']['mnist']['test']['mean']:.3f}" in table
    assert "3.6" in table


def test_gradients_of_any_prior(basis, digits):
    run = ["evaluate", "gradients", "--prior", "toy-gaussian", "--data-dir", digits()]
    report = json.loads(basis(*run, "--levels", 3, "--json").stdout)
    assert [round(level["sigma"], 2) for level in report["levels"]] == [1.0, 0.1, 0.01]
    assert all(level["scaled_norm"] > 0 for level in report["levels"])
    result = basis(*run, "--plot", "figures/gradients.png")
    assert result.exit_code == 0, result.output
    assert "0.5995" in result.stdout, "the paper's ten levels unless told otherwise"
    assert Image.open("figures/gradients.png").size[0] > 300


@pytest.mark.parametrize("command", ["likelihood", "gradients"])
def test_pictures_must_be_of_the_priors_shape(basis, digits, command):
    result = basis("evaluate", command, "--prior", "toy-gaussian", "--data-dir", digits(10))
    assert result.exit_code == 2
    assert "the prior models pictures of shape (1, 8, 8), but mnist's have (1, 10, 10)" in result.stderr


def test_a_prior_of_scores_has_no_likelihood(basis, digits):
    result = basis("evaluate", "likelihood", "--prior", "ncsn-mnist", "--data-dir", digits(28), "--pairs", 0)
    assert result.exit_code == 2
    assert "no likelihood" in result.stderr
