"""Which pictures a command takes, and in which form it hands back what is made of them."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

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


# --- names and formats


def test_out_may_name_the_picture(basis, picture):
    result = basis(*INPAINT, picture(), "-o", "new/result.png")
    assert result.exit_code == 0, result.output
    assert result.stdout.split() == ["new/result.png"]
    assert sorted(path.name for path in Path("new").iterdir()) == ["result.json", "result.png"]
    again = basis(*INPAINT, "mix.png", "-o", "new/result.png")
    assert again.exit_code == 2
    assert "exists" in again.stderr
    assert basis(*INPAINT, "mix.png", "-o", "new/result.png", "--overwrite").exit_code == 0
    assert basis(*INPAINT, "mix.png").exit_code == 0
    assert Path("out/mix.x1.png").read_bytes() == Path("new/result.png").read_bytes()


def test_of_several_pictures_the_name_is_their_stem(basis, picture):
    result = basis("separate", picture(), "--prior", "toy-mixture", "--levels", 2, "-q", "-o", "result.tif")
    assert result.exit_code == 0, result.output
    assert result.stdout.split() == ["result.x1.tif", "result.x2.tif"]
    assert Image.open("result.x1.tif").format == "TIFF"


def test_a_folder_that_is_called_like_a_picture_is_a_folder(basis, picture):
    Path("out.png").mkdir()
    assert basis(*INPAINT, picture(), "-o", "out.png").stdout.split() == ["out.png/mix.x1.png"]


@pytest.mark.parametrize(("name", "ending"), [("png", "png"), ("tiff", "tif"), ("webp", "webp"), ("jpeg", "jpg")])
def test_formats(basis, picture, name, ending):
    result = basis(*INPAINT, picture(), "--format", name)
    assert result.stdout.split() == [f"out/mix.x1.{ending}"]
    assert Image.open(f"out/mix.x1.{ending}").format == name.upper()
    record = json.loads(Path("out/mix.json").read_text())
    assert (record["format"], record["bits"]) == (f".{ending}", 8)
    assert basis(*INPAINT, "mix.png", "--format", name, "--skip-existing").stdout.split() == []


def test_16_bits(basis, picture):
    pytest.importorskip("png")
    result = basis(*INPAINT, picture(), "--bits", 16)
    assert result.exit_code == 0, result.output
    deep = Image.open("out/mix.x1.png")
    assert deep.mode == "I;16"
    assert (np.asarray(deep) % 257 != 0).any()  # more than 8 bits could say
    assert basis(*INPAINT, "mix.png", "-o", "8").exit_code == 0
    assert np.abs(np.asarray(deep) / 257 - np.asarray(Image.open("8/mix.x1.png"), float)).max() <= 0.51


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["b.png", "-o", "one.png"], "one.png is one picture, but there are 2 inputs"),
        (["-o", "one.gif"], "a format that is not written"),
        (["-o", "one.png", "--format", "webp"], "one.png is not webp"),
        (["--format", "tiff", "--bits", "16"], "only PNG"),
        (["--bits", "12"], "'12' is not one of"),
    ],
)
def test_formats_that_cannot_be(basis, picture, options, says):
    picture("b.png")
    result = basis(*INPAINT, picture(), *options)
    assert result.exit_code == 2
    assert says in result.stderr
    assert not list(Path().glob("o*"))


def test_16_bits_without_pypng(basis, picture, monkeypatch):
    monkeypatch.setitem(sys.modules, "png", None)
    result = basis(*INPAINT, picture(), "--bits", 16)
    assert result.exit_code == 2
    assert "png16" in result.stderr


def test_samples_are_several(basis):
    result = basis("sample", "--prior", "toy-gaussian", "-o", "one.png")
    assert result.exit_code == 2
    assert "name a folder" in result.stderr


# --- opacity, colours, EXIF data


@pytest.fixture
def glass(tmp_path):
    """A picture of 8 x 8 whose upper half is half transparent: its pixels, and the file ``glass.png``."""
    values = np.random.default_rng(0).integers(60, 200, (8, 8, 4), dtype=np.uint8)
    values[..., 3] = 255
    values[:4, :, 3] = 128
    Image.fromarray(values).save(tmp_path / "glass.png")
    return values


@pytest.mark.usefixtures("colour")
def test_opacity_goes_from_the_picture_to_the_answer(basis, glass):
    options = ["--prior", "blobs", "--levels", 2, "-q"]
    result = basis("inpaint", "glass.png", "--mask", "right", *options)
    assert result.exit_code == 0, result.output
    assert not result.stderr
    answer = np.asarray(Image.open("out/glass.x1.png"))
    np.testing.assert_array_equal(answer[:, :4], glass[:, :4])
    assert (answer[:, 4:, 3] == 255).all()  # what is filled in is opaque
    assert json.loads(Path("out/glass.json").read_text())["read"] == {"opacity": "kept"}
    result = basis("separate", "glass.png", *options, "-o", "parts")
    assert result.exit_code == 0, result.output
    for i in (1, 2):  # opacity times a mixture is the mixture of opacity times the components
        np.testing.assert_array_equal(np.asarray(Image.open(f"parts/glass.x{i}.png"))[..., 3], glass[..., 3])
    opaque = glass.copy()
    opaque[..., 3] = 255
    Image.fromarray(opaque).save("opaque.png")
    assert basis("colorize", "glass.png", "opaque.png", *options, "-o", "coloured").exit_code == 0
    colours = [np.asarray(Image.open(f"coloured/{name}.x1.png")) for name in ("glass", "opaque")]
    np.testing.assert_array_equal(colours[0][..., :3], colours[1])


@pytest.mark.usefixtures("colour")
def test_opacity_is_enlarged_with_the_picture(basis, glass):
    Image.fromarray(glass[2:6, 2:6]).save("small.png")
    assert basis("upscale", "small.png", "--factor", 2, "--prior", "blobs", "--levels", 2, "-q").exit_code == 0
    opacity = np.asarray(Image.open("out/small.x1.png"))[..., 3]
    assert opacity.shape == (8, 8)
    assert (opacity[0] == 128).all()
    assert (opacity[-1] == 255).all()


@pytest.mark.usefixtures("colour")
def test_answers_say_in_which_colours_they_are_and_when_it_was(basis, tmp_path):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = srgb.replace(b"rXYZ", b"tXYZ").replace(b"bXYZ", b"rXYZ").replace(b"tXYZ", b"bXYZ")
    exif = Image.Exif()
    exif[0x0112], exif[0x0132] = 6, "2020:01:02 03:04:05"
    pixels = np.random.default_rng(0).integers(60, 200, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("photo.png", icc_profile=swapped, exif=exif)
    result = basis("inpaint", "photo.png", "--mask", "left", "--prior", "blobs", "--levels", 2, "-q")
    assert result.exit_code == 0, result.output
    answer = Image.open("out/photo.x1.png")
    assert answer.getexif()[0x0132] == "2020:01:02 03:04:05"
    assert answer.getexif().get(0x0112, 1) == 1
    turned = np.asarray(Image.fromarray(pixels).transpose(Image.Transpose.ROTATE_270))
    assert np.abs(np.asarray(answer, int)[:, 4:] - turned[:, 4:, ::-1]).max() <= 2
    assert "sRGB" in ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(answer.info["icc_profile"])))
    record = json.loads(Path("out/photo.json").read_text())
    assert record["read"] == {"profile": "sRGB built-in", "converted_to": "sRGB", "exif": "kept"}
