"""Which pictures a command takes, and in which form it hands back what is made of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

INPAINT = ["inpaint", "--mask", "right", "--prior", "toy-gaussian", "--levels", "2", "--quiet"]


@pytest.fixture
def album(picture, tmp_path):
    """``album/a.png``, ``album/trip/b.png``, and what is no picture."""
    (tmp_path / "album/trip/.hidden").mkdir(parents=True)
    for seed, name in enumerate(("album/a.png", "album/trip/b.PNG", "album/trip/.c.png", "album/trip/.hidden/d.png")):
        picture(name, seed)
    (tmp_path / "album/notes.txt").write_text("no picture")
    return tmp_path / "album"


def written(folder="out"):
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*.png"))


def test_a_folder_gives_the_pictures_in_it(basis, album):
    result = basis(*INPAINT, "album")
    assert result.exit_code == 0, result.output
    assert result.stdout.split() == ["out/a.x1.png"]
    result = basis(*INPAINT, "album", "--recursive", "-o", "all")
    assert result.exit_code == 0, result.output
    assert written("all") == ["a.x1.png", "trip/b.x1.png"]
    assert json.loads(Path("all/trip/b.json").read_text())["input"] == "album/trip/b.PNG"
    assert Path("all/a.x1.png").read_bytes() == Path("out/a.x1.png").read_bytes()


@pytest.mark.parametrize("out", ["album", "album/results"])
def test_results_in_the_folder_are_no_inputs(basis, album, out):
    run = [*INPAINT, "album", "--recursive", "--sheet", "-o", out]
    assert basis(*run).exit_code == 0
    before = written("album")
    result = basis(*run, "--overwrite")
    assert result.exit_code == 0, result.output
    assert len(result.stdout.split()) == 2
    assert written("album") == before


def test_folders_go_on_after_a_killed_run(basis, album):
    run = [*INPAINT, "album", "--recursive", "--resume"]
    assert basis(*run).exit_code == 0
    Path("out/trip/b.json").unlink()
    assert basis(*run).stdout.split() == ["out/trip/b.x1.png"]


def test_a_folder_without_pictures_is_an_error(basis, album):
    (album / "a.png").unlink()
    result = basis(*INPAINT, "album")
    assert result.exit_code == 1
    assert "album holds no pictures" in result.stderr
    assert "--recursive" in result.stderr


def test_one_mask_serves_all_pictures_of_its_size(basis, album, picture):
    picture("album/large.png", size=(12, 16))
    mask = np.zeros((12, 16), np.uint8)
    mask[:, 8:] = 255
    Image.fromarray(mask).save("mask.png")
    run = ["inpaint", "album", "--mask", "mask.png", "--prior", "toy-gaussian", "--levels", "2", "--quiet", "--tile"]
    result = basis(*run)
    assert result.exit_code == 1
    assert result.stdout.split() == ["out/large.x1.png"]
    assert "album/a.png: mask.png is 16 x 12 pixels, but the picture is 8 x 8" in result.stderr
    (album / "large.png").unlink()
    assert basis(*run, "-o", "none").exit_code == 1
    assert not Path("none").exists()
