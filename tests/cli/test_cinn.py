"""``basis train cinn``, ``cinn-colour``, and what is drawn by what they make."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

import basis_cli
from basis_cli.errors import UsageError

SMALL = ("--blocks", 1, "--width", 8, "--hidden", 1, "--directions", 4, "--batch", 4)


@pytest.fixture
def flow(basis, digits):
    """Weights of a small flow of digits, trained as a user would."""
    result = basis("train", "cinn", "--data-dir", digits(28), "--steps", 2, *SMALL, "-o", "run")
    assert result.exit_code == 0, result.output
    assert Path("run/samples-0000002.png").exists()
    return Path(result.stdout.strip())


def test_digits_of_a_class_are_drawn(basis, flow):
    options = ("--temperature", 0.88, "--dtype", "bfloat16", "-q")
    arguments = ("sample", "--model", "cinn-mnist", "--weights", flow, *options)
    result = basis(*arguments, "--label", 3, "-n", 2, "--json")
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert (record["model"], record["label"], len(record["pictures"])) == ("cinn-mnist", 3, 2)
    assert (record["settings"]["temperature"], record["settings"]["seed"]) == (0.88, 0)
    assert "prior" not in record
    assert record["settings"]["dtype"] == "float32"  # whatever is usual on this machine
    assert Image.open(record["pictures"][0]).size == (28, 28)
    first = Path(record["pictures"][1]).read_bytes()
    result = basis(*arguments, "-n", 12, "-o", "all")
    assert result.exit_code == 0, result.output
    assert len(list(Path("all").glob("cinn-mnist-*.png"))) == 12
    result = basis(*arguments, "--label", 3, "-n", 3, "-o", "more")
    assert Path("more/cinn-mnist-0002.png").read_bytes() == first


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("--model", "cinn-mnist", "--label", 10), 2, "no class 10"),
        (("--model", "cinn-mnist", "--temperature", 0), 2, "temperature must be"),
        (("--model", "cinn-mnist", "--steps", 3), 2, "no prior and no sampler"),
        (("--model", "cinn-mnist", "--prior", "ncsn-mnist"), 2, "not both"),
        (("--prior", "toy-gaussian", "--label", 3), 2, "only a model of classes"),
        (("--model", "cinn-colour"), 2, "for `basis colorize`"),
        (("--model", "cinn-mnits"), 3, "did you mean 'cinn-mnist'"),
    ],
)
def test_what_cannot_be_drawn(basis, flow, arguments, code, says):
    weights = () if "toy-gaussian" in arguments else ("--weights", flow)
    result = basis("sample", *arguments, *weights, "-q")
    assert result.exit_code == code, result.output
    assert says in result.stderr


def test_without_weights_it_is_said_how_to_make_them(basis, picture):
    result = basis("colorize", picture(size=(28, 28)), "--model", "cinn-color-mnist")
    assert result.exit_code == 4, result.output
    assert "basis train cinn-colour" in result.stderr


def test_the_library_draws_digits_too(flow):
    x = basis_cli.sample(model="cinn-mnist", count=3, weights=flow)
    assert x.shape == (3, 1, 28, 28)
    with pytest.raises(UsageError, match="no class"):
        basis_cli.sample(model="cinn-mnist", count=3, label=-1, weights=flow)
    assert basis_cli.sample("toy-gaussian", 2).shape == (2, 1, 8, 8)
