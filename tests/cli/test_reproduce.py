"""``basis reproduce`` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


def test_lists_what_there_is(basis):
    assert "table2" in basis("reproduce", "list").stdout
    names = [row["name"] for row in json.loads(basis("reproduce", "list", "--json").stdout)]
    assert len(names) == len(set(names)) == 26


def test_runs_an_experiment_and_makes_the_document(basis, monkeypatch):
    from basis_reproduce import EXPERIMENTS

    sizes = {"samples": 20, "iterations": 2}
    monkeypatch.setattr("basis_reproduce.EXPERIMENTS", EXPERIMENTS | {"ncsn-toy-gmm": _with(sizes)})
    result = basis("reproduce", "ncsn-toy-gmm", "-o", "found", "-q")
    assert result.exit_code == 0, result.output
    assert "published" in result.stdout
    assert "cut: samples 20 of 1,280" in " ".join(result.stdout.split())
    assert {path.name for path in Path("found").iterdir()} == {"ncsn-toy-gmm.json", "ncsn-toy-gmm.png"}
    assert json.loads(Path("found/ncsn-toy-gmm.json").read_text())["sizes"] == sizes
    page = basis("reproduce", "document", "-o", "found")
    assert page.stdout.split() == ["found.md"]
    assert "## NCSN, Figures 2, 3 and 11" in Path("found.md").read_text()


def _with(sizes):
    from dataclasses import replace

    from basis_reproduce import EXPERIMENTS

    return replace(EXPERIMENTS["ncsn-toy-gmm"], quick=sizes)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["table9"], 2, "no experiment"),
        (["table1", "--weights", "glow-mnist=nowhere"], 4, "this needs the prior glow-mnist: there is no file"),
        (["table1", "--weights", "glow-mnist"], 2, "PRIOR=FILE"),
        (["table2", "--data-dir", "nowhere"], 1, "not in nowhere"),
        (["document", "-o", "."], 1, "no results"),
    ],
)
def test_errors(basis, monkeypatch, arguments, code, says):
    monkeypatch.setenv("BASIS_DATA", "")
    result = basis("reproduce", *arguments)
    assert result.exit_code == code, result.output
    assert says in result.stderr
    assert "Traceback" not in result.output
