"""``basis evaluate separation`` on pictures small enough for a toy prior."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

QUICK = ["--prior", "toy-mixture", "--sampler", "langevin", "--levels", 2, "--steps", 2, "-q"]


def test_reports_as_json_with_the_published_figures(basis, digits):
    run = ["evaluate", "separation", *QUICK, "--data-dir", digits(), "--pairs", 6, "--json"]
    report = json.loads(basis(*run).stdout)
    assert report["mixtures"] == len(report["psnr_per_mixture"]) == 6
    assert report["psnr"]["mean"] == pytest.approx(np.mean(report["psnr_per_mixture"]), abs=1e-3)
    assert report["psnr_corrected"]["mean"] != report["psnr"]["mean"]
    assert report["evaluations"] == 4
    assert report["published"]["BASIS NCSN"] == 29.3
    split = json.loads(basis(*run, "--protocol", "class-split").stdout)
    assert split["published"]["BASIS NCSN"] == 29.5
    assert json.loads(basis(*run, "-k", 3).stdout)["published"] == {}


def test_a_pair_is_the_same_whatever_runs_beside_it(basis, digits):
    run = ["evaluate", "separation", *QUICK, "--data-dir", digits(), "--json"]
    few = json.loads(basis(*run, "--pairs", 3).stdout)["psnr_per_mixture"]
    many = json.loads(basis(*run, "--pairs", 9, "--batch", 4).stdout)["psnr_per_mixture"]
    assert many[:3] == few


def test_prints_a_table_and_draws_a_histogram(basis, digits):
    run = ["evaluate", "separation", *QUICK, "--data-dir", digits(), "--pairs", 6, "--plot", "figures/psnr.png"]
    result = basis(*run, "--sheet", "sheet.png")
    assert Image.open("sheet.png").size == (6 * 10 + 2, 5 * 10 + 2)
    assert result.exit_code == 0, result.output
    assert "BASIS NCSN (paper)" in result.stdout
    assert "after the last correction" in result.stdout
    assert "29.3 dB" in result.stdout
    assert Image.open("figures/psnr.png").size[0] > 300


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--data", "minst"], 2, "known: mnist"),
        (["--protocol", "class-split", "-k", 3], 2, "two pictures"),
        (["--protocol", "ms-vae"], 2, "SSIM needs 11 pixels"),
        (["--data-dir", "nowhere"], 1, "not in nowhere"),
        (["-k", 25], 2, "too few"),
    ],
)
def test_errors(basis, digits, arguments, code, says):
    where = [] if "--data-dir" in arguments else ["--data-dir", digits()]
    result = basis("evaluate", "separation", *QUICK, *where, *arguments)
    assert result.exit_code == code, result.output
    assert says in result.stderr


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("colorization", []),
        ("inpainting", ["--mask", "bottom"]),
        ("upscaling", ["--factor", 2]),
        ("decompression", ["--quality", 50]),
    ],
)
def test_restorations_beside_their_baseline(basis, digits, command, options):
    run = ["evaluate", command, *options, "--prior", "toy-gaussian", "--data", "mnist", "--data-dir", digits()]
    run += ["--levels", 3, "--pictures", 6, "--samples", 2, "-q"]
    report = json.loads(basis(*run, "--json", "--sheet", "sheet.png").stdout)
    assert Image.open("sheet.png").size == (6 * 10 + 2, 5 * 10 + 2)  # observed, baseline, two samples, truth
    assert report["task"] == command
    assert list(report["quality"]) == ["baseline", "one sample", "mean of 2", "truth"]
    assert report["quality"]["one sample"].keys() == {"psnr", "psnr_standard_error"}
    table = basis(*run).stdout
    assert f"{report['quality']['baseline']['psnr']:.2f}" in table
    assert "mean of 2" in table


class Tiny(torch.nn.Module):
    """Features of eight by eight pictures, in place of a network that is an extra."""

    def layers(self, x):
        return [torch.nn.functional.normalize(x.expand(-1, 2, -1, -1) + 1, dim=1)]

    def forward(self, x):
        return x.flatten(1)[:, :10], x.flatten(1)[:, 20:25]


def test_diversity_of_the_samples(basis, digits, monkeypatch):
    pytest.importorskip("torchmetrics")
    monkeypatch.setattr("basis_cli.evaluation.imagenet.imagenet", lambda device: Tiny())
    run = ["evaluate", "inpainting", "--mask", "bottom", "--prior", "toy-gaussian", "--data", "mnist", "--levels", 3]
    run += ["--data-dir", digits(), "--pictures", 6, "-q", "--diversity"]
    report = json.loads(basis(*run, "--samples", 2, "--json").stdout)
    rows = report["quality"]
    assert all({"imagenet-FD", "top-5"} <= row.keys() for row in rows.values())
    assert rows["truth"] == {"imagenet-FD": pytest.approx(0, abs=1e-6), "top-5": 1}
    assert report["diversity"].keys() >= {"FWV 0.3", "FWV 0.2", "FWV 0.15"}
    assert "6 pictures do not tell" in report["caveats"][0]
    table = basis(*run, "--samples", 2).stdout
    assert "imagenet-FD" in table
    assert "FWV 0.15" in table
    alone = basis(*run)
    assert alone.exit_code == 2
    assert "--samples 10" in alone.stderr


def test_pictures_of_a_folder_are_made_as_large_as_the_priors(basis, picture, tmp_path):
    for i in range(3):
        for split in ("train", "test"):
            (tmp_path / "photos" / split).mkdir(parents=True, exist_ok=True)
            picture(f"photos/{split}/{i}.png", i, size=(17, 20))
    run = ["--prior", "toy-gaussian", "--data", tmp_path / "photos", "--pictures", 2, "--json", "-q"]
    result = basis("evaluate", "upscaling", *run, "--factor", 2, "--levels", 2)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["data"], report["pictures"]) == ("photos", 2)
    assert basis("evaluate", "gradients", *run[:-1], "--levels", 2).exit_code == 0
    mixtures = ["evaluate", "separation", *run[:4], "--pairs", 2, "--levels", 2, "--json", "-q"]
    larger = basis(*mixtures, "--tile", "--pyramid", "--size", 17, "--overlap", 2)
    assert larger.exit_code == 0, larger.output
    report = json.loads(larger.stdout)
    assert (report["shape"], report["tiles"]["count"]) == ([1, 17, 17], [9, 4])
    assert len(report["settings"]["sigmas"]) == 3
    assert json.loads(basis(*mixtures).stdout)["tiles"] is None
    assert basis(*mixtures, "--size", 17).exit_code == 2
    assert basis(*mixtures, "--tile").exit_code == 2
    assert basis(*mixtures, "--pyramid").exit_code == 2


def test_what_would_end_a_long_run_is_found_before_it(basis, digits, monkeypatch):
    run = ["evaluate", "separation", "--prior", "toy-gaussian", "--data-dir", digits(8), "--pairs", 2]
    monkeypatch.setattr("basis_cli.evaluation.protocols.drawn", None)  # nothing may be sampled
    Path("taken").write_text("a file")
    Path("folder").mkdir()
    for option, path, code in (("--plot", "folder", 2), ("--plot", "taken/plot.png", 1), ("--sheet", "taken/x.png", 1)):
        result = basis(*run, option, path)
        assert result.exit_code == code, result.output
        assert "error:" in result.stderr


def test_gray_samples_have_no_judge(basis, digits):
    result = basis("evaluate", "samples", "--prior", "toy-gaussian", "--data", "mnist", "--data-dir", digits())
    assert result.exit_code == 2
    assert "gray" in result.stderr
