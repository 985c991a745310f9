"""The shipped weights on the shipped example, with the paper's algorithm and settings: what a new user runs first."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from typer.testing import CliRunner

import basis_cli
from basis_cli import weights
from basis_cli.cli.app import app
from basis_cli.data import images

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_separates_the_example(tmp_path):
    references = [argument for name in "ab" for argument in ("--reference", EXAMPLES / f"digits.{name}.png")]
    command = ["separate", EXAMPLES / "digits.png", "-k", 2, *references, "-o", tmp_path, "--json", "-q"]
    run = CliRunner().invoke(app, [str(part) for part in command])
    assert run.exit_code == 0, run.output
    record = json.loads(run.stdout)["results"][0]
    answer = record["answers"][0]
    assert min(answer["psnr_db"]) > 25  # the mean picture has 14 dB
    assert answer["residual_8bit_rms"] < 1
    written = [np.asarray(Image.open(path), np.float64) for path in answer["components"]]
    mixture = np.asarray(Image.open(EXAMPLES / "digits.png"), np.float64)
    assert np.sqrt(((sum(written) / 2 - mixture) ** 2).mean()) < 1
    assert record["weights_sha256"] == {"ncsn-mnist": weights.sha256(weights.SHIPPED / "ncsn-mnist.safetensors")}


def test_same_picture_alone_and_in_a_batch_of_fifty():
    mixture = torch.from_numpy(images.read(EXAMPLES / "digits.png"))
    batch = torch.rand(50, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    batch[17] = mixture
    quick = basis_cli.Sampling("langevin", levels=4, steps=2, seed=5)
    alone = basis_cli.separate(mixture, sampling=quick).components[:, 0]
    assert torch.equal(basis_cli.separate(batch, sampling=quick).components[:, 17], alone)


def test_one_picture_rounds_like_many():
    """A batch of one goes through another convolution on some CPUs; the prior must hide that."""
    level = basis_cli.load_prior("ncsn-mnist", device="cpu").at(0.3)
    x = torch.rand(5, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    assert torch.equal(level.score(x)[:1], level.score(x[:1]))


def test_restores_the_example_with_the_shipped_colour_prior():
    quick = basis_cli.Sampling(levels=12, seed=1)
    truth = EXAMPLES / "horse.png"
    options = {"references": truth, "sampling": quick}
    answers = {
        "colorize": basis_cli.colorize(EXAMPLES / "horse.gray.png", **options),
        "inpaint": basis_cli.inpaint(truth, "right", **options),
        "upscale": basis_cli.upscale(EXAMPLES / "horse.small.png", 4, **options),
        "decompress": basis_cli.decompress(EXAMPLES / "horse.jpg", **options),
    }
    for task, least in {"colorize": 18, "inpaint": 12, "upscale": 18, "decompress": 18}.items():
        assert float(answers[task].psnr) > least, task
        assert float(answers[task].residual) < 1, task
    assert answers["colorize"].components.std(dim=3).mean() > 0.01  # there is colour
