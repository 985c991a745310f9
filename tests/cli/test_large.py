"""``--tile`` and ``--resume`` from the outside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from basis_cli.cli import output
from basis_cli.samplers import Progress

TOY = ["--prior", "toy-mixture", "--levels", 3, "--quiet", "--device", "cpu"]

COLOUR = """
    from basis_cli.api import PriorSpec, hookimpl

    @hookimpl
    def basis_priors():
        return [PriorSpec("blobs", "Soft blobs in colour", (3, 8, 8), load="colour:load")]

    def load(spec, weights, device):
        from basis_toy.prior import soft_blobs
        return soft_blobs(spec.shape)
"""


def pixels(path):
    return np.asarray(Image.open(path), np.float64) / 255


def record(stem):
    return json.loads(Path(f"out/{stem}.json").read_text())


@pytest.fixture
def photo(tmp_path, plugin):
    """``photo("wide.jpg", (20, 28))`` writes a smooth colour picture; the prior ``blobs`` takes 8 x 8 of them."""
    plugin("colour", COLOUR)

    def write(name="photo.png", size=(20, 28), **options):
        small = np.random.default_rng(0).integers(60, 200, (3, 4, 3), dtype=np.uint8)
        Image.fromarray(small).resize(size[::-1], Image.Resampling.BICUBIC).save(tmp_path / name, **options)
        return name

    return write


def test_a_large_mixture_is_separated_in_tiles_and_adds_up(basis, picture):
    names = [picture("large.png", size=(20, 28)), picture("small.png"), picture("odd.png", 1, size=(9, 8))]
    result = basis("separate", *names, *TOY, "--tile")
    assert result.exit_code == 0, result.output
    for stem, size, tiles in (("large", (20, 28), 4 * 6), ("small", (8, 8), None), ("odd", (9, 8), 2)):
        one, two = pixels(f"out/{stem}.x1.png"), pixels(f"out/{stem}.x2.png")
        assert one.shape == size
        assert np.abs((one + two) / 2 - pixels(f"{stem}.png")).max() < 1.5 / 255
        about = record(stem).get("tiles")
        assert about == (tiles and {"count": tiles, "size": [8, 8], "overlap": [4, 4]})
    basis("separate", "small.png", *TOY, "-o", "plain")
    assert Path("plain/small.x1.png").read_bytes() == Path("out/small.x1.png").read_bytes()


def test_tiles_overlap_as_told(basis, picture):
    assert basis("separate", picture(size=(20, 28)), *TOY, "--tile", "--overlap", 2).exit_code == 0
    assert record("mix")["tiles"] == {"count": 3 * 5, "size": [8, 8], "overlap": [2, 2]}


def test_a_pyramid_sees_every_scale(basis, picture):
    assert basis("separate", picture(size=(20, 28)), *TOY, "--tile", "--pyramid", "--overlap", 2).exit_code == 0
    about = record("mix")
    assert about["tiles"] == {"count": [3 * 5, 2 * 2], "size": [8, 8], "overlap": [2, 2]}
    assert about["settings"]["sigmas"][0] > 1.3


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["wide.png"], 1, "--tile, or --fit"),
        (["thin.png"], 1, "(--fit crop"),
        (["wide.png", "--pyramid"], 2, "add --tile"),
        (["thin.png", "--tile"], 1, "7 x 40"),
        (["wide.png", "--tile", "--overlap", 8], 2, "overlap by 8"),
        (["wide.png", "--overlap", 3], 2, "--tile"),
        (["wide.png", "--tile", "--reference", "mix.png", "--reference", "mix.png"], 1, "shape"),
        (["mix.png", "--resume", "--overwrite"], 2, "--resume"),
        (["mix.png", "--resume", "--frames"], 2, "--resume"),
    ],
)
def test_wrong_arguments_give_one_clear_line(basis, picture, arguments, code, says):
    picture(), picture("wide.png", size=(20, 28)), picture("thin.png", size=(40, 7))
    result = basis("separate", *arguments, *TOY)
    assert result.exit_code == code, result.output
    assert says in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_large_pictures_are_restored_in_tiles(basis, photo):
    options = ["--prior", "blobs", "--levels", 3, "--quiet", "--device", "cpu", "--tile"]
    assert basis("colorize", photo(), *options).exit_code == 0
    assert pixels("out/photo.x1.png").shape == (20, 28, 3)
    mask = np.zeros((20, 28), np.uint8)
    mask[5:9, 4:20] = 255
    Image.fromarray(mask).save("mask.png")
    assert basis("inpaint", photo("hole.png"), "--mask", "mask.png", *options).exit_code == 0
    kept = np.abs(pixels("out/hole.x1.png") - pixels("hole.png")).max(2) < 0.01
    assert kept[mask == 0].all()
    assert not kept[mask > 0].all()
    names = photo("one.png"), photo("two.png", (16, 16))
    assert basis("inpaint", *names, "--mask", "left", *options).exit_code == 0
    assert basis("upscale", photo("little.png", (7, 5)), "--factor", 3, *options).exit_code == 0
    assert pixels("out/little.x1.png").shape == (21, 15, 3)
    assert record("little")["answers"][0]["residual_8bit_rms"] < 1
    for more in ([], ["--pyramid", "--overwrite"]):
        result = basis("decompress", photo("x.jpg", quality=30), *options, *more)
        assert result.exit_code == 0, result.output
    assert pixels("out/x.x1.png").shape == (20, 28, 3)


@pytest.fixture
def kill(monkeypatch):
    """``kill(batch, level)``: the next run is killed there, as a power cut would; ``kill()``: not any more."""
    from basis_cli.cli import job

    def at(batch=None, level=None):
        @contextmanager
        def progress(quiet=False):
            def watch(progress):
                if (progress.batch, progress.level) == (batch, level):
                    raise SystemExit(9)

            yield watch

        monkeypatch.setattr(job, "sampling_progress", progress)

    return at


def test_a_killed_run_goes_on_to_the_same_files(basis, picture, kill):
    names = [picture(f"mix{i}.png", seed=i) for i in range(5)]
    command = ["separate", *names, *TOY, "--samples", 2, "--batch", 4, "--resume"]  # two pictures at once
    kill()
    assert basis(*command, "-o", "unbroken").exit_code == 0
    assert not list(Path("unbroken").glob("*.safetensors"))
    kill(1, 2)
    assert basis(*command).exit_code == 9
    assert [path.name for path in Path("out").glob("*.safetensors")] == ["mix2.state.safetensors"]
    assert sorted(path.name for path in Path("out").glob("*.json")) == ["mix0.json", "mix1.json"]
    kill()
    other = basis(*command, "--seed", 1)
    assert other.exit_code == 2
    assert "is of other options" in other.stderr
    again = basis(*command)
    assert again.exit_code == 0, again.output
    written = sorted(path.name for path in Path("unbroken").iterdir() if path.suffix == ".png")
    assert sorted(path.name for path in Path("out").iterdir() if path.suffix != ".json") == written
    assert all(Path("unbroken", name).read_bytes() == Path("out", name).read_bytes() for name in written)
    for i in range(5):
        one, two = (json.loads(Path(folder, f"mix{i}.json").read_text()) for folder in ("unbroken", "out"))
        assert one["evaluations"] == two["evaluations"]
    assert basis(*command).exit_code == 0  # everything is there already


def test_a_run_that_is_really_killed_resumes(basis, picture, tmp_path):
    command = [
        "separate",
        picture(size=(40, 40)),
        "--prior",
        "toy-mixture",
        "--tile",
        "--levels",
        40,
        "--device",
        "cpu",
    ]
    command = [*map(str, command), "--quiet", "--resume"]
    process = subprocess.Popen([sys.executable, "-m", "basis_cli", *command, "-o", "killed"], cwd=tmp_path)
    deadline = time.monotonic() + 120
    while not (tmp_path / "killed/mix.state.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not Path("killed/mix.json").exists()
    assert basis(*command, "-o", "killed").exit_code == 0
    assert basis(*command, "-o", "whole").exit_code == 0
    assert Path("killed/mix.x1.png").read_bytes() == Path("whole/mix.x1.png").read_bytes()


def test_a_run_that_fails_leaves_no_state(basis, picture, plugin):
    source = """
        from basis_cli.api import PriorSpec, hookimpl

        class Broken:
            shape, sigmas = (1, 8, 8), None
            def at(self, sigma):
                self.factor = -1 if sigma > 0.5 else float("nan")
                return self
            def score(self, x):
                return self.factor * x

        @hookimpl
        def basis_priors():
            return [PriorSpec("nan", "NaN at low noise", (1, 8, 8), load="broken:load")]

        def load(spec, weights, device):
            return Broken()
    """
    plugin("broken", source)
    result = basis("separate", picture(), "--prior", "nan", "--levels", 4, "--resume", "--quiet")
    assert result.exit_code == 1
    assert "not finite" in result.stderr
    assert not list(Path("out").iterdir())


def test_the_time_left_is_known_when_levels_take_minutes_and_after_resuming(monkeypatch):
    clock, bars = [1000.0], []
    make = output._bar

    def remembered(quiet):
        bars.append(make(quiet))
        return bars[0]

    monkeypatch.setattr(output, "_bar", remembered)
    monkeypatch.setattr(output, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(output.stderr, "get_time", lambda: clock[0])
    state = {"total": 10, "levels": 10, "level": 0, "sigma": 1.0, "x": torch.rand(1, 1, 1, 8, 8), "batches": 2}
    with output.sampling_progress() as watch:
        task = bars[0].tasks[0]
        for step in range(4, 10):  # resumed after the fourth level of the first of two chunks
            watch(Progress(step=step, **state))
            clock[0] += 120
        assert task.completed == 10
        watch(Progress(step=0, batch=1, **state))
        assert (task.completed, task.total) == (11, 20)
        assert task.time_remaining == pytest.approx(9 * 120, rel=0.01)
