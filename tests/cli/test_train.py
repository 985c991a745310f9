"""``basis train ncsn`` from the command line: what it writes, and what it refuses."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import basis_ncsn.training
import numpy as np
import pytest
import torch
from basis_ncsn.prior import read
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from basis_cli.cli.commands import command_line
from basis_cli.data.datasets import Dataset, joined

TINY = ["--widths", "32", "--blocks", 1, "--batch", 4, "--steps", 3, "--sheet-every", 100, "--device", "cpu"]


@pytest.fixture
def no_sheet(monkeypatch):
    """Samples take longer than these runs."""
    monkeypatch.setattr(basis_ncsn.training, "sheet", lambda *args: None)


def test_trains_and_resumes(basis, digits, monkeypatch):
    run = ["train", "ncsn", "--data-dir", digits(), *TINY, "-o", "run"]
    result = basis(*run)
    assert result.exit_code == 0, result.output
    assert result.stdout.split() == ["run/weights.safetensors"]
    assert Path("run/samples-0000003.png").exists()
    monkeypatch.setattr(basis_ncsn.training, "sheet", lambda *args: None)  # one is enough
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


@pytest.mark.usefixtures("no_sheet")
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
    few = ["-n", 1, "--levels", 2, "--quiet"]
    drawn = basis("sample", "--prior", "ncsn", "--weights", "run/weights.safetensors", *few)
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


@pytest.fixture
def photos(picture, tmp_path):
    """A folder of five pictures of 30 x 24 pixels."""
    (tmp_path / "photos").mkdir()
    for i in range(5):
        picture(f"photos/{i}.png", i, size=(24, 30))
    return tmp_path / "photos"


@pytest.fixture
def batches(monkeypatch):
    """The shapes of the batches that the network learns from; what is looked at before saving is none."""
    shapes: list[tuple[int, ...]] = []
    real = basis_ncsn.training.denoising_loss

    def noting(network, x, *args):
        if torch.is_grad_enabled():
            shapes.append(tuple(x.shape))
        return real(network, x, *args)

    monkeypatch.setattr(basis_ncsn.training, "denoising_loss", noting)
    return shapes


@pytest.mark.usefixtures("no_sheet")
def test_trains_on_crops_of_several_sizes_and_scales(basis, photos, batches):
    run = ["train", "ncsn", "--data", photos, "--gray", "--size", 24, *TINY, "--no-attention"]
    result = basis(*run, "--crops", "8,16", "--octaves", 2, "-o", "run")
    assert result.exit_code == 0, result.output
    assert batches == [(4, 1, 8, 8), (1, 1, 16, 16), (4, 1, 8, 8)]
    network, shape = read(Path("run/weights.safetensors"))
    assert shape == (1, 16, 16)
    assert not [name for name in network.state_dict() if "attention" in name]
    state = torch.load("run/state.pt", weights_only=True)
    assert (state["settings"]["crops"], state["settings"]["octaves"]) == ((8, 16), 2)
    again = basis(*run, "--crops", "8,16", "--octaves", 2, "-o", "run", "--steps", 4, "--resume")
    assert again.exit_code == 0, again.output
    assert batches[3:] == [(1, 1, 16, 16)]
    assert basis(*run, "--crops", "8", "-o", "run", "--steps", 5, "--resume").exit_code == 2


@pytest.mark.usefixtures("no_sheet")
def test_several_folders_are_one_data_set(basis, picture, digits, tmp_path):
    for folder, count in (("towns", 4), ("woods", 7)):
        (tmp_path / folder).mkdir()
        for i in range(count):
            picture(f"{folder}/{i}.png", i, size=(20, 20))
    both = ["--data", tmp_path / "towns", "--data", "woods", "--size", 16]
    result = basis("train", "ncsn", *both, *TINY, "-o", "run")
    assert result.exit_code == 0, result.output
    with safe_open("run/weights.safetensors", "pt") as file:
        about = file.metadata()
    assert about["data"] == "towns + woods, train split, 9 pictures"  # the first of each is for testing
    result = basis("train", "ncsn", *both, "--data", "mnist", "--data-dir", digits(), *TINY, "-o", "other")
    assert result.exit_code == 2
    assert "pictures of different shapes: towns (3, 16, 16), woods (3, 16, 16), mnist (1, 8, 8)" in result.stderr


def test_pictures_of_joined_data_sets_come_in_turn():
    first, second = (
        Dataset(name, "test", np.full((50, 1, 2, 2), value, np.uint8), np.arange(50))
        for name, value in (("a", 1), ("b", 2))
    )
    both = joined([first, second])
    assert (both.name, both.images.shape, int(both.images[:, 0, 0, 0].sum())) == ("a + b", (100, 1, 2, 2), 150)
    assert 5 < (both.images[:20] == 1).all((1, 2, 3)).sum() < 15
    assert joined([first]) is first


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--octaves", 2], "--octaves are scales of random crops"),
        (["--octaves", 5, "--crops", "8"], "less than or equal to 4"),
        (["--crops", "8,many"], "--crops '8,many' is not a list of whole numbers"),
        (["--crops", "8,0"], "--crops '8,0' is not a list of whole numbers"),
        (["--crops", "8,32"], "no square of 32 pixels can be cut from 24 x 24"),
        (["--hours", 0], "greater than or equal to 0.001"),
    ],
)
def test_errors_of_crops_and_hours(basis, photos, arguments, says):
    result = basis("train", "ncsn", "--data", photos, "--size", 24, *TINY, "-o", "run", *arguments)
    assert result.exit_code == 2, result.output
    assert says in result.stderr
    assert not Path("run/state.pt").exists()


@pytest.mark.usefixtures("no_sheet")
def test_trains_by_the_clock(basis, digits, batches, monkeypatch):
    """By one that says a minute more whenever it is looked at, so that three minutes are over by the second look."""
    clock = itertools.count(0, 60)
    monkeypatch.setattr("time.monotonic", lambda: float(next(clock)))
    run = ["train", "ncsn", "--data-dir", digits(), *TINY, "--hours", 0.05, "-o", "run"]
    result = basis(*run)
    assert result.exit_code == 0, result.output
    metrics = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in metrics] == [50, 100]
    assert len(batches) == 100  # not the three of --steps
    assert metrics[0]["progress"] < 1 <= metrics[1]["progress"]
    warm, falling = (line["learning_rate"] for line in metrics)  # after 50 and 100 steps of 200 to warm up
    assert (warm, falling) == pytest.approx((0.25e-3, 0.5e-3 * 0.75))
    assert basis(*run, "--resume").exit_code == 0
    assert len(batches) == 100


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


def test_features_need_classes(basis, picture, tmp_path):
    (tmp_path / "photos").mkdir()
    for i in range(5):
        picture(f"photos/{i}.png", i, size=(64, 70))
    unlabelled = basis("train", "features", "--data", tmp_path / "photos", "-o", "run")
    assert unlabelled.exit_code == 2
    assert "says nothing of classes" in unlabelled.stderr


def test_features_need_colour_pictures(basis, digits, colours):
    gray = basis("train", "features", "--data", "mnist", "--data-dir", digits(32), "-o", "run")
    assert gray.exit_code == 2
    assert "RGB" in gray.stderr
    odd = basis("train", "features", "--data-dir", colours, "--widths", "12", "-o", "run")
    assert odd.exit_code == 2
    assert "multiples of 8" in odd.stderr


@pytest.mark.usefixtures("no_sheet")
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


@pytest.mark.usefixtures("no_sheet")
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
