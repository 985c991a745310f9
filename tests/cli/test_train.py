"""``basis train ncsn`` from the command line: what it writes, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from basis_ncsn.prior import read
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from basis_cli.cli.commands import command_line

TINY = ["--widths", "32", "--blocks", 1, "--batch", 4, "--steps", 3, "--sheet-every", 100, "--device", "cpu"]


def test_trains_and_resumes(basis, digits):
    run = ["train", "ncsn", "--data-dir", digits(), *TINY, "-o", "run"]
    result = basis(*run)
    assert result.exit_code == 0, result.output
    assert result.stdout.split() == ["run/weights.safetensors"]
    assert Path("run/samples-0000003.png").exists()
    metrics = json.loads(Path("run/metrics.jsonl").read_text().splitlines()[-1])
    assert metrics["step"] == 3
    assert metrics["denoising_error_0.1"] > 0
    again = basis(*run)
    assert again.exit_code == 2
    assert "--resume" in again.stderr
    longer = [*run, "--steps", 5, "--resume"]
    assert basis(*longer).exit_code == 0
    assert json.loads(Path("run/metrics.jsonl").read_text().splitlines()[-1])["step"] == 5
    slower = basis(*run, "--steps", 6, "--learning-rate", 1e-4, "--resume")
    assert slower.exit_code == 0, slower.output
    other = basis(*run, "--batch", 3, "--resume")
    assert other.exit_code == 2
    assert "other settings" in other.stderr
    Path("run/state.pt").write_bytes(b"damaged")
    damaged = basis(*longer)
    assert damaged.exit_code == 1
    assert "cannot resume" in damaged.stderr


def test_trains_on_a_folder_of_pictures(basis, picture, digits, tmp_path):
    (tmp_path / "photos").mkdir()
    for i in range(5):
        picture(f"photos/{i}.png", i, size=(20, 30))
    picture("photos/small.png", size=(9, 40))
    run = ["train", "ncsn", "--data", tmp_path / "photos", "--size", 16, *TINY, "-o", "run"]
    result = basis(*run)
    assert result.exit_code == 0, result.output
    assert "1 of 5 pictures are left out" in result.stderr
    with safe_open("run/weights.safetensors", "pt") as file:
        about = file.metadata()
    assert about["data"] == "photos, train split, 4 pictures"
    assert json.loads(about["shape"]) == [3, 16, 16]
    drawn = basis("sample", "--prior", "ncsn", "--weights", "run/weights.safetensors", "-n", 1, "--steps", 1, "--quiet")
    assert drawn.exit_code == 0, drawn.output
    with Image.open("out/ncsn-0001.png") as sampled:
        assert (sampled.mode, sampled.size) == ("RGB", (16, 16))
    assert basis("sample", "--prior", "ncsn", "-o", "none").exit_code == 4
    gray = basis(*run[:-1], "gray", "--gray", "--limit", 2, "--crop", 20)
    assert gray.exit_code == 0, gray.output
    with safe_open("gray/weights.safetensors", "pt") as file:
        about = file.metadata()
    assert (about["data"], json.loads(about["shape"])) == ("photos, train split, 2 pictures", [1, 16, 16])
    cropped = basis(*run[:-1], "cropped", "--random-crop", 20)
    assert cropped.exit_code == 0, cropped.output
    with safe_open("cropped/weights.safetensors", "pt") as file:
        assert json.loads(file.metadata()["shape"]) == [3, 16, 16]
    assert basis(*run[:-1], "small", "--random-crop", 15).exit_code == 2
    refused = basis("train", "ncsn", "--data-dir", digits(28), "--size", 16, "--random-crop", 20, *TINY, "-o", "digits")
    assert refused.exit_code == 2
    assert "folders and LSUN" in refused.stderr
    unlabelled = basis("train", "features", "--data", tmp_path / "photos", "-o", "features")
    assert unlabelled.exit_code in (1, 2)


@pytest.fixture
def colours(tmp_path):
    """CIFAR-10's binary files with 8 random pictures each."""
    records = np.random.default_rng(0).integers(0, 256, (8, 3073), dtype=np.uint8)
    records[:, 0] = np.arange(8)
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        records.tofile(tmp_path / f"{name}.bin")
    return tmp_path


def test_trains_features_and_resumes(basis, colours):
    run = ["train", "features", "--data-dir", colours, "--widths", "8,32", "--batch", 4, "--device", "cpu"]
    run += ["--decay", "constant", "--test-every", 100]
    result = basis(*run, "--steps", 4, "-o", "unbroken")
    assert result.exit_code == 0, result.output
    assert result.stdout.split() == ["unbroken/weights.safetensors"]
    metrics = json.loads(Path("unbroken/metrics.jsonl").read_text().splitlines()[-1])
    assert 0 <= metrics["accuracy"] <= 1
    assert basis(*run, "--steps", 2, "-o", "run").exit_code == 0
    assert basis(*run, "--steps", 2, "-o", "run").exit_code == 2
    assert basis(*run, "--steps", 4, "-o", "run", "--resume").exit_code == 0
    one, other = (load_file(f"{name}/weights.safetensors") for name in ("unbroken", "run"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    with safe_open("run/weights.safetensors", "pt") as file:
        about = file.metadata()
    assert about["format"] == "basis-features"
    assert about["data"] == "cifar10, train split, 40 pictures"


def test_features_need_colour_pictures(basis, digits, colours):
    gray = basis("train", "features", "--data", "mnist", "--data-dir", digits(32), "-o", "run")
    assert gray.exit_code == 2
    assert "RGB" in gray.stderr
    odd = basis("train", "features", "--data-dir", colours, "--widths", "12", "-o", "run")
    assert odd.exit_code == 2
    assert "multiples of 8" in odd.stderr


def test_starts_from_given_weights(basis, digits):
    run = ["train", "ncsn", "--data-dir", digits(), *TINY]
    basis(*run, "--steps", 40, "--learning-rate", 0.01, "-o", "first")
    steady = ["--steps", 1, "--learning-rate", 1e-9]
    basis(*run, *steady, "--start-from", "first/weights.safetensors", "-o", "second")
    basis(*run, *steady, "-o", "scratch")
    first, second, scratch = (load_file(f"{name}/weights.safetensors") for name in ("first", "second", "scratch"))
    assert all(torch.allclose(first[name], second[name], atol=1e-3) for name in first)
    assert not all(torch.allclose(first[name], scratch[name], atol=1e-3) for name in first)
    basis(*run, *steady, "--blocks", 2, "--start-from", "first/weights.safetensors", "-o", "deeper")
    deeper, shallower = (read(Path(name, "weights.safetensors"))[0] for name in ("deeper", "first"))
    x, sigma = torch.rand(3, 1, 8, 8), torch.tensor([0.3])
    assert len(deeper.state_dict()) > len(shallower.state_dict())
    assert torch.allclose(deeper(x, sigma), shallower(x, sigma), atol=0.02)  # new blocks begin as the identity
    fewer = basis(*run, "--start-from", "deeper/weights.safetensors", "-o", "third")
    assert fewer.exit_code == 2
    other = basis(*run, "--widths", "64", "--start-from", "first/weights.safetensors", "-o", "third")
    assert other.exit_code == 2
    assert "another network" in other.stderr
    missing = basis(*run, "--start-from", "nowhere.safetensors", "-o", "third")
    assert missing.exit_code == 4


@pytest.mark.parametrize("backbone", ["unet", "resnet"])
def test_fixed_levels(basis, digits, backbone):
    run = ["train", "ncsn", "--data-dir", digits(), *TINY, "--backbone", backbone, "--filters", 8]
    assert basis(*run, "--schedule", "linear", "--loss", "ssm", "-o", "linear", "--steps", 1).exit_code == 0
    assert basis(*run, "--levels", 1, "-o", "one", "--steps", 1).exit_code == 0
    linear, one = (read(Path(name, "weights.safetensors"))[0] for name in ("linear", "one"))
    assert linear.sigmas == pytest.approx([1 - 0.11 * i for i in range(10)])
    assert one.sigmas == (0.01,)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--widths", "a"], 2, "whole numbers"),
        (["--widths", "20"], 2, "multiples of 8"),
        (["--widths", "8,8,16,64"], 2, "fewer --widths"),
        (["--device", "cuda:99"], 2, "CUDA"),
        (["--data", "minst"], 2, "known: mnist"),
        (["--data-dir", "nowhere"], 1, "not in nowhere"),
    ],
)
def test_errors(basis, digits, arguments, code, says):
    result = basis("train", "ncsn", "--data-dir", digits(), *TINY, "-o", "run", *arguments)
    assert result.exit_code == code, result.output
    assert says in result.stderr
    assert "Traceback" not in result.output


def test_the_recorded_command_names_no_folder():
    typed = ["train", "ncsn", "--data", "mnist", "-o", "/home/me/run", "--data-dir=/data", "--seed", "1", "--resume"]
    assert command_line(typed) == "basis train ncsn --data mnist --seed 1"
    for typed in (["--start-from", "/home/me/a.safetensors"], ["--start-from=/home/me/a.safetensors"]):
        assert "me" not in command_line(typed)
        assert command_line(typed).endswith("a.safetensors")
