"""``basis colorize``, ``inpaint``, ``upscale``, ``decompress`` from the outside, with a colour prior of soft blobs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

import basis_cli

QUICK = ["--prior", "blobs", "--levels", "4", "--quiet"]
pytestmark = pytest.mark.usefixtures("colour")


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB"), np.float64) / 255


def record(stem, out="out"):
    return json.loads(Path(out, f"{stem}.json").read_text())


@pytest.mark.parametrize(
    ("options", "weights"), [((), [0.299, 0.587, 0.114]), (("--gray", "mean"), [1 / 3, 1 / 3, 1 / 3])]
)
def test_colorize_keeps_the_gray_it_was_given(basis, photo, picture, options, weights):
    result = basis("colorize", picture("gray.png"), photo(), *QUICK, *options)
    assert result.exit_code == 0, result.output
    assert result.stdout.split() == ["out/gray.x1.png", "out/photo.x1.png"]
    assert np.abs(pixels("out/gray.x1.png") @ weights - pixels("gray.png")[..., 0]).max() < 1 / 255
    assert np.abs(pixels("out/photo.x1.png") @ weights - pixels("photo.png") @ weights).max() < 1 / 255
    assert record("gray")["task"] == "colorize"
    assert record("gray")["settings"]["sampler"] == "project"
    assert record("gray")["answers"][0]["residual_8bit_rms"] < 0.1


@pytest.mark.parametrize(("mask", "kept"), [("right", np.s_[:, :4]), ("top", np.s_[4:]), ("mask.png", np.s_[:, :2])])
def test_inpaint_keeps_what_is_known(basis, photo, mask, kept):
    drawn = np.zeros((8, 8), np.uint8)
    drawn[:, 2:] = 255
    Image.fromarray(drawn).save("mask.png")
    result = basis("inpaint", photo(), "--mask", mask, *QUICK)
    assert result.exit_code == 0, result.output
    answer, given = pixels("out/photo.x1.png"), pixels("photo.png")
    assert np.array_equal(answer[kept], given[kept])
    assert not np.allclose(answer, given)
    basis("inpaint", "photo.png", "--mask", mask, "--invert-mask", *QUICK, "-o", "other")
    assert not np.allclose(pixels("other/photo.x1.png")[kept], given[kept])


@pytest.mark.parametrize("method", [[], ["--bicubic"]])
def test_upscale_gives_the_input_when_shrunk_again(basis, photo, method):
    result = basis("upscale", photo(size=(4, 4)), "--factor", 2, *method, *QUICK)
    assert result.exit_code == 0, result.output
    large = Image.open("out/photo.x1.png")
    assert large.size == (8, 8)
    again = large.resize((4, 4), Image.Resampling.BICUBIC if method else Image.Resampling.BOX)
    assert np.abs(np.asarray(again, float) - 255 * pixels("photo.png")).max() < (4 if method else 1.01)  # rounding


def test_decompress_reads_the_files_own_tables(basis, photo):
    photo("coarse.jpg", quality=10)
    photo("fine.jpg", seed=1, quality=90, subsampling=0)
    result = basis("decompress", "coarse.jpg", "fine.jpg", *QUICK, "--seed", 1)
    assert result.exit_code == 0, result.output
    for name in ("coarse", "fine"):
        assert record(name)["answers"][0]["residual_8bit_rms"] < 8  # soft blobs explain no JPEG file of noise
    changed = [np.abs(pixels(f"out/{name}.x1.png") - pixels(f"{name}.jpg")).mean() for name in ("coarse", "fine")]
    assert changed[0] > 1.2 * changed[1]


def test_the_answer_to_a_gray_picture_is_gray(basis, photo, picture):
    """Under a prior of colour pictures, whether the file is stored as gray or not."""
    picture("gray.jpg"), picture("drawn.png")
    Image.open("gray.jpg").convert("RGB").save("coloured.jpg", quality=10)
    assert basis("decompress", "gray.jpg", "coloured.jpg", *QUICK).exit_code == 0
    assert basis("inpaint", "drawn.png", "--mask", "right", *QUICK).exit_code == 0
    for stem, given in (("gray", "gray.jpg"), ("coloured", "coloured.jpg"), ("drawn", "drawn.png")):
        answer = pixels(f"out/{stem}.x1.png")
        assert not np.array_equal(answer, pixels(given))
        assert np.ptp(answer, axis=-1).max() == 0
    assert record("gray")["answers"][0]["residual_8bit_rms"] < 3
    assert basis("colorize", "drawn.png", *QUICK, "-o", "colours").exit_code == 0
    assert np.ptp(pixels("colours/drawn.x1.png"), axis=-1).max() > 0.1


@pytest.mark.parametrize("sampler", ["project", "conjugate", "ep", "mmps", "langevin", "average"])
def test_decompress_with_any_sampler_answers_or_says_why_not(basis, photo, sampler):
    Image.open(photo()).save("photo.jpg", quality=10)
    quick = ["--prior", "blobs", "--quiet", "--sampler", sampler] + ["--steps", "3"] * (sampler == "langevin")
    result = basis("decompress", "photo.jpg", *quick)
    assert (result.exit_code == 0) == (sampler in ("project", "mmps", "langevin")), result.output
    assert result.exit_code == 0 or len(result.stderr.splitlines()) == 1


def test_decompress_reads_stdin(basis, photo):
    file = photo("coarse.jpg", quality=10)
    assert basis("decompress", file, *QUICK).exit_code == 0
    result = basis("decompress", "-", *QUICK, stdin=Path(file).read_bytes())
    assert result.exit_code == 0, result.output
    assert (pixels("out/stdin.x1.png") == pixels("out/coarse.x1.png")).all()


def test_decompress_takes_gray_and_turned_files(basis, photo, picture):
    turned = Image.Exif()
    turned[0x0112] = 6
    picture("gray.jpg"), photo("turned.jpg", exif=turned, quality=10), photo("plain.jpg", quality=10)
    result = basis("decompress", "gray.jpg", "turned.jpg", *QUICK)
    assert result.exit_code == 0, result.output
    gray = pixels("out/gray.x1.png")
    assert (gray == gray[..., :1]).all()
    upright = np.rot90(pixels("plain.jpg"), -1)
    assert (
        np.abs(pixels("out/turned.x1.png") - upright).mean()
        < np.abs(pixels("out/turned.x1.png") - pixels("plain.jpg")).mean()
    )
    assert record("turned")["answers"][0]["residual_8bit_rms"] < 8


def test_decompress_leaves_the_colours_as_they_were_coded(basis, photo):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = srgb.replace(b"rXYZ", b"tXYZ").replace(b"bXYZ", b"rXYZ").replace(b"tXYZ", b"bXYZ")
    files = [photo("plain.jpg", quality=20), photo("swapped.jpg", quality=20, icc_profile=swapped)]
    assert basis("decompress", *files, *QUICK).exit_code == 0
    assert (pixels("out/plain.x1.png") == pixels("out/swapped.x1.png")).all()
    assert Image.open("out/swapped.x1.png").info["icc_profile"] == swapped
    how = {"prior": "blobs", "sampling": basis_cli.Sampling(levels=4)}
    plain, other = (basis_cli.decompress(file, **how).components for file in files)
    assert (plain == other).all()


def test_a_jpeg_that_does_not_fit_the_prior_does_not_stop_the_others(basis, photo, picture):
    photo("good.jpg"), photo("wide.jpg", (20, 30)), picture("drawn.png")
    result = basis("decompress", "wide.jpg", "drawn.png", "missing.jpg", "good.jpg", *QUICK)
    assert result.exit_code == 1
    assert "wide.jpg has 30 x 20 pixels" in result.stderr
    assert "drawn.png is PNG, not JPEG" in result.stderr
    assert "missing.jpg does not exist" in result.stderr
    assert "--fit" not in result.stderr
    assert record("good")


def test_frames_of_several_samples_end_at_the_most_probable(basis, photo):
    result = basis("inpaint", photo(), "--mask", "right", *QUICK, "--samples", 6, "--select", "best", "--frames")
    assert result.exit_code == 0, result.output
    last = pixels("out/photo.frames.png")[2:10, -10:-2].astype(float)
    assert np.abs(last - pixels("out/photo.x1.png")).mean() < 2


def test_a_sampler_that_cannot_take_the_operator_says_so(basis, photo):
    result = basis("decompress", photo("coarse.jpg"), *QUICK[:2], "--sampler", "average")
    assert result.exit_code == 2
    assert "linear" in result.stderr


def test_several_samples_a_sheet_frames_and_the_truth(basis, photo):
    options = ["--samples", 3, "--sheet", "--frames", "--uncertainty", "--reference", photo("truth.png")]
    result = basis("colorize", photo("gray.png"), *QUICK, *options)
    assert result.exit_code == 0, result.output
    written = record("gray")
    assert len(written["answers"]) == len(written["log_likelihood_nats"]) == 3
    assert all(len(answer["psnr_db"]) == 1 for answer in written["answers"])
    assert Image.open(written["sheet"]).size == (5 * 10 + 2, 12)  # input, three answers, truth
    strip, animation = written["frames"]
    assert Image.open(strip).size == (4 * 10 + 2, 12)  # a column for each level
    assert Image.open(animation).n_frames == 4
    assert Image.open(written["uncertainty"]["files"][0]).size == (8, 8)


def test_frames_of_a_separation_are_in_the_order_of_its_components(basis, picture):
    options = ["--prior", "toy-mixture", "--sampler", "project", "--levels", 6, "--quiet", "--frames", "--sheet"]
    basis("separate", picture(), *options)
    strip = pixels("out/mix.frames.png")
    for i in (1, 2):
        last = strip[2 + 10 * (i - 1) :, -10:-2][:8]
        answers = [np.abs(last - pixels(f"out/mix.x{j}.png")).mean() for j in (1, 2)]
        assert answers[i - 1] == min(answers)
    assert Image.open("out/mix.sheet.png").size == (22, 22)


def test_langevin_frames_have_one_state_a_level(basis, photo):
    basis("inpaint", photo(), "--mask", "left", *QUICK, "--sampler", "langevin", "--steps", 3, "--frames")
    assert Image.open("out/photo.frames.png").size == (4 * 10 + 2, 12)


def test_same_seed_same_picture_alone_or_among_others(basis, photo):
    names = [photo(f"p{i}.png", seed=i) for i in range(4)]
    basis("colorize", *names, *QUICK, "-o", "together", "--batch", 3)
    basis("colorize", names[2], *QUICK, "-o", "alone")
    assert Path("together/p2.x1.png").read_bytes() == Path("alone/p2.x1.png").read_bytes()


def test_a_noisy_input_is_not_taken_at_its_word(basis, photo):
    assert basis("upscale", photo(size=(4, 4)), "--factor", 2, *QUICK, "--noise-std", 0.3).exit_code == 0
    assert record("photo")["settings"]["sampler"] == "project"
    assert record("photo")["answers"][0]["residual_8bit_rms"] > 5


@pytest.mark.parametrize(
    ("command", "code", "says"),
    [
        (["colorize", "photo.png", "--prior", "toy-gaussian"], 2, "1 channels, not 3"),
        (["colorize", "wide.png"], 1, "--fit"),
        (["colorize", "none.png"], 1, "none.png"),
        (["colorize", "photo.png", "--samples", "0"], 2, "at least 1"),
        (["colorize", "photo.png", "--sampler", "ep"], 2, "mixtures only"),
        (["inpaint", "photo.png", "--mask", "none.png"], 1, "none.png"),
        (["inpaint", "photo.png", "--mask", "white.png"], 2, "leaves nothing"),
        (["inpaint", "photo.png", "--mask", "wide-mask.png"], 1, "--fit"),
        (["upscale", "photo.png", "--factor", "3"], 2, "cannot be shrunk 3 times"),
        (["upscale", "photo.png", "--factor", "2"], 1, "8 x 8"),
        (["decompress", "photo.png"], 1, "not JPEG"),
        (["decompress", "photo.jpg", "--prior", "toy-gaussian"], 1, "photo.jpg is in colour"),
        (["decompress", "wide.jpg"], 1, "30 x 20"),
        (["colorize", "photo.png", "photo2.png", "--reference", "photo.png"], 2, "one input"),
    ],
)
def test_wrong_arguments_give_one_clear_line(basis, photo, picture, command, code, says):
    photo(), photo("photo2.png"), photo("wide.png", (20, 30)), photo("wide.jpg", (20, 30)), photo("photo.jpg")
    Image.new("L", (8, 8), 255).save("white.png")
    Image.new("L", (30, 20), 255).save("wide-mask.png")
    prior = [] if "--prior" in command else ["--prior", "blobs"]
    result = basis(*command, *prior, "--quiet")
    assert result.exit_code == code, result.output
    assert says in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not Path("out").exists() or not list(Path("out").iterdir())


def test_a_mask_that_marks_nothing_is_an_error_and_a_drawing_on_nothing_is_read_by_its_opacity(basis, photo):
    drawn = np.zeros((8, 8, 4), np.uint8)
    drawn[:, 4:, 3] = 255  # black, and transparent on the left
    Image.fromarray(drawn).save("drawn.png")
    assert basis("inpaint", photo(), "--mask", "drawn.png", *QUICK).exit_code == 0
    assert basis("inpaint", "photo.png", "--mask", "right", *QUICK, "-o", "named").exit_code == 0
    assert Path("out/photo.x1.png").read_bytes() == Path("named/photo.x1.png").read_bytes()
    red = np.zeros((8, 8, 3), np.uint8)
    red[:, 4:, 0] = 255
    for name, mask in (("red", red), ("ones", np.eye(8, dtype=np.uint8)), ("empty", np.zeros((8, 8), np.uint8))):
        Image.fromarray(mask).save(f"{name}.png")
        result = basis("inpaint", "photo.png", "--mask", f"{name}.png", *QUICK, "-o", name)
        assert result.exit_code == 1, name
        assert "marks nothing" in result.stderr
        assert not Path(name).exists()
