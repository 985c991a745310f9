"""``basis paint`` and ``--model imle-...`` from the outside, with networks that have learned nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from basis_imle import files, layouts
from basis_imle.network import Generator
from PIL import Image

import basis_cli

SMALL = {"channels": (8, 8, 8, 8), "growth": (4,) * 4, "blocks": (1,) * 4}


@pytest.fixture
def weights(tmp_path):
    def written(task):
        torch.manual_seed(0)
        path = tmp_path / f"{task}.safetensors"
        files.save(path, Generator(task, classes=10, **SMALL), {})
        return path

    return written


@pytest.fixture
def layout():
    classes = np.repeat(np.repeat(np.arange(4, dtype=np.uint8).reshape(2, 2), 8, 0), 12, 1)
    Image.fromarray(classes).save("layout.png")
    return classes


def test_paint_gives_several_answers_and_the_library_the_same(basis, layout, weights):
    result = basis("paint", "layout.png", "--weights", weights("paint"), "--samples", 3, "--sheet", "-q")
    assert result.exit_code == 0, result.output
    pictures = [np.asarray(Image.open(path)) for path in result.stdout.split()]
    assert [picture.shape for picture in pictures] == [(16, 24, 3)] * 3
    assert not np.array_equal(pictures[0], pictures[1])
    record = json.loads(Path("out/layout.json").read_text())
    assert record["model"] == "imle-layout"
    assert record["answers"][0]["residual_8bit_rms"] is None  # nobody knows how a picture makes its layout
    drawn = (np.moveaxis(layouts.drawn(layout), 0, -1) * 255 + 0.5).astype(np.uint8)
    Image.fromarray(drawn).save("drawn.png")
    assert basis("paint", "drawn.png", "--weights", weights("paint"), "--samples", 3, "-q").exit_code == 0
    from basis_imle.painting import paint

    for given in ("layout.png", layout):
        found = paint(given, weights=weights("paint"), samples=3).components[0, 0]
        each = [(np.moveaxis(one.numpy(), 0, -1) * 255 + 0.5).astype(np.uint8) for one in found]
        assert all(np.array_equal(*pair) for pair in zip(each, pictures, strict=True))


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("layout.png", "--prior", "ncsn-photo"), 2, "no prior paints layouts"),
        (("layout.png", "--model", "cinn-mnist"), 2, "for `basis sample`"),
        (("other.png", "--weights", "WEIGHTS"), 1, "#0a141e"),
        (("none.png", "--weights", "WEIGHTS"), 1, "none.png"),
        (("layout.png", "--weights", "WRONG"), 4, "is for `basis colorize`"),
    ],
)
def test_what_cannot_be_painted_is_said(basis, layout, weights, arguments, code, words):
    Image.fromarray(np.full((16, 16, 3), (10, 20, 30), np.uint8)).save("other.png")
    files_ = {"WEIGHTS": weights("paint"), "WRONG": weights("colorize")}
    result = basis("paint", *(files_.get(argument, argument) for argument in arguments), "-q")
    assert result.exit_code == code, result.output
    assert words in result.output
    assert not list(Path("out").glob("*.png"))


@pytest.mark.parametrize(
    ("verb", "model", "options", "size"),
    [
        ("colorize", "imle-colour", (), (24, 16)),
        ("upscale", "imle-upscale16", ("--factor", 16), (32, 48)),
        ("decompress", "imle-decompress", (), (24, 16)),
    ],
)
def test_other_tasks(basis, weights, verb, model, options, size):
    given = (size[0] // 16, size[1] // 16) if verb == "upscale" else size
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*given, 3), dtype=np.uint8))
    picture.save("x.jpg", quality=8)
    picture.save("x.png")
    name = "x.jpg" if verb == "decompress" else "x.png"
    result = basis(verb, name, "--model", model, "--weights", weights(verb), *options, "--samples", 2, "-q")
    assert result.exit_code == 0, result.output
    assert [Image.open(path).size for path in result.stdout.split()] == [(size[1], size[0])] * 2


def test_another_factor_is_refused(basis, weights):
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save("x.png")
    options = ("--factor", 8, "--model", "imle-upscale16", "--weights", weights("upscale"), "-q")
    result = basis("upscale", "x.png", *options)
    assert result.exit_code == 2, result.output
    assert "enlarges 16 times" in result.output


def test_its_answers_begin_a_sampler(basis, weights):
    gray = np.random.default_rng(0).integers(0, 256, (16, 16), dtype=np.uint8)
    Image.fromarray(gray).save("gray.png")
    options = ("--weights", weights("colorize"), "--refine", "--levels", 2, "-q")
    result = basis("colorize", "gray.png", "--model", "imle-colour", *options)
    assert result.exit_code == 0, result.output
    assert basis_cli.__version__ == json.loads(Path("out/gray.json").read_text())["basis"]


@pytest.mark.parametrize(
    ("verb", "model", "options"),
    [
        ("colorize", "imle-colour", ()),
        ("upscale", "imle-upscale16", ("--factor", 16)),
        ("decompress", "imle-decompress", ()),
    ],
)
def test_shipped_models_give_several_answers(basis, verb, model, options):
    ramp = np.linspace(20, 230, 4 if verb == "upscale" else 64).astype(np.uint8)
    picture = Image.fromarray(np.stack([ramp[:, None] + 0 * ramp] * 3, -1))
    picture.save("x.jpg" if verb == "decompress" else "x.png", quality=8)
    name = "x.jpg" if verb == "decompress" else "x.png"
    result = basis(verb, name, "--model", model, *options, "--samples", 2, "-q")
    assert result.exit_code == 0, result.output
    first, second = (np.asarray(Image.open(path), np.float32) for path in result.stdout.split())
    assert first.shape == (64, 64, 3)
    assert first.std() > 10
    assert (first != second).any()


def test_the_shipped_model_paints(basis, layout):
    result = basis("paint", "layout.png", "--samples", 2, "-q")
    assert result.exit_code == 0, result.output
    first, second = (np.asarray(Image.open(path)) for path in result.stdout.split())
    assert first.std() > 10
    assert (first != second).any()
