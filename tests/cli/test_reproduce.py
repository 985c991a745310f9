"""``basis reproduce`` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from basis_reproduce import EXPERIMENTS


def test_lists_what_there_is(basis):
    assert "table2" in basis("reproduce", "list").stdout
    names = [row["name"] for row in json.loads(basis("reproduce", "list", "--json").stdout)]
    assert names == list(EXPERIMENTS)


def test_runs_an_experiment_and_makes_the_document(basis):
    sizes = {"samples": 20, "iterations": 2}
    few = [word for name, count in sizes.items() for word in ("--set", f"{name}={count}")]
    result = basis("reproduce", "ncsn-toy-gmm", *few, "-o", "found", "-q")
    assert result.exit_code == 0, result.output
    assert "published" in result.stdout
    assert "cut: samples 20 of 1,280" in " ".join(result.stdout.split())
    assert {path.name for path in Path("found").iterdir()} == {"ncsn-toy-gmm.json", "ncsn-toy-gmm.png"}
    assert json.loads(Path("found/ncsn-toy-gmm.json").read_text())["sizes"] == sizes
    page = basis("reproduce", "document", "-o", "found")
    assert page.stdout.split() == ["found.md"]
    assert "## NCSN, Figures 2, 3 and 11" in Path("found.md").read_text()
    assert "    basis reproduce ncsn-toy-gmm --set samples=20 --set iterations=2\n" in Path("found.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["table9"], 2, "no experiment"),
        (["table1", "--weights", "glow-mnist=nowhere"], 4, "this needs the prior glow-mnist: there is no file"),
        (["table1", "--weights", "glow-mnist"], 2, "PRIOR=FILE"),
        (["table2", "--data-dir", "nowhere"], 1, "not in nowhere"),
        (["document", "-o", "."], 1, "no results"),
        (["table2", "--set", "pairs"], 2, "NAME=NUMBER"),
        (["table2", "--set", "pears=3"], 2, "has no size 'pears'"),
    ],
)
def test_errors(basis, monkeypatch, arguments, code, says):
    monkeypatch.setenv("BASIS_DATA", "")
    result = basis("reproduce", *arguments)
    assert result.exit_code == code, result.output
    assert says in result.stderr
    assert "Traceback" not in result.output
