"""``basis sweep``: every combination once, also after an interruption."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from basis_cli.cli import sweep
from basis_cli.errors import InputError


@pytest.fixture
def runs(monkeypatch):
    """The combinations that were run, in place of processes whose PSNR is levels times samples."""
    ran = []

    def result(command, run):
        ran.append(tuple(run.values()))
        levels, samples = (int(value) for value in run.values())
        if levels == 13:
            return InputError("unlucky")
        return {"process_seconds": 1.0, "result": {"psnr": {"mean": levels * samples}, "seconds": levels + samples}}

    monkeypatch.setattr(sweep, "_result", result)
    return ran


GRID = ("levels=1,20", "samples=1,4")


def test_every_combination_once_and_those_that_are_missing_later(basis, runs):
    first = basis("sweep", *GRID, "--json", "-q", "--plot", "plot.png", "--", "evaluate", "separation")
    assert first.exit_code == 0, first.output
    assert runs == [("1", "1"), ("1", "4"), ("20", "1"), ("20", "4")]
    assert Path("plot.png").stat().st_size > 1000
    found = json.loads(first.stdout)["runs"]
    assert [record["result"]["psnr"]["mean"] for record in found] == [1, 4, 20, 80]
    lines = Path("sweep.jsonl").read_text().splitlines(keepends=True)
    Path("sweep.jsonl").write_text("".join(lines[:3]) + lines[3][:20])
    again = basis("sweep", *GRID, "-q", "--", "evaluate", "separation")
    assert runs[4:] == [("20", "4")]
    assert Path("sweep.jsonl").read_text().splitlines() == [line.strip() for line in lines]
    assert "psnr.mean" in again.stdout
    basis("sweep", *GRID, "-q", "--", "evaluate", "separation", "--pairs", "3")
    assert len(runs) == 9, "another command is another sweep"


def test_a_run_that_fails_is_told_and_the_others_go_on(basis, runs):
    result = basis("sweep", "levels=13,1", "samples=2", "-q", "--", "evaluate", "separation")
    assert result.exit_code == 1
    assert "unlucky" in result.stderr
    assert len(Path("sweep.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("levels=1,2",),
        ("--", "evaluate", "separation"),
        ("levels=1,,2", "--", "evaluate", "separation"),
        ("levels=1", "levels=2", "--", "evaluate", "separation"),
        ("levels=1", "--", "evaluate", "separation", "--levels", "3"),
        ("levels=1", "--plot", "x.png", "--show", "psnr.mean", "--", "evaluate", "separation"),
    ],
)
def test_what_is_no_sweep(basis, arguments):
    assert basis("sweep", *arguments).exit_code == 2
    Path("sweep.jsonl").write_text("my diary\n")
    result = basis("sweep", "levels=1", "--", "evaluate", "separation")
    assert (result.exit_code, Path("sweep.jsonl").read_text()) == (1, "my diary\n")


def test_real_runs(basis, picture):
    picture("mix.png")
    words = ("separate", "mix.png", "--prior", "toy-gaussian", "--levels", "2", "-q")
    assert basis(*words, "--out", "a").exit_code == 0
    result = basis("sweep", "out=a,b", "-q", "--show", "results", "--", *words)
    assert result.exit_code == 1
    assert "exists" in result.stderr
    assert Path("a/mix.x1.png").read_bytes() == Path("b/mix.x1.png").read_bytes()
    assert [json.loads(line)["sweep"] for line in Path("sweep.jsonl").read_text().splitlines()] == [{"out": "b"}]


def test_the_frontier():
    assert sweep.frontier([(3, 2), (1, 1), (2, 0), (3, 4), (4, 4)]) == [(1, 1), (3, 4)]
