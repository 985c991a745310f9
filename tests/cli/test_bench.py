"""``basis bench`` from the outside."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

QUICK = ["--prior", "toy-gaussian", "--baseline", "toy-gaussian", "--count", 2, "--sampler", "project", "--levels", 2]
QUICK += ["--rounds", 2]


def test_prints_ratios_first_and_says_what_was_timed(basis):
    result = basis("bench", "speed", *QUICK, "--device", "cpu", "-q")
    assert result.exit_code == 0, result.output
    head, *rows = [line for line in result.stdout.splitlines() if "┃" in line or "│" in line]
    assert head.index("ratio") < head.index("project (ours)") < head.index("Algorithm 1")
    assert "2 separations" in rows[0]
    assert "x" in rows[0]
    assert " ± " in rows[0]
    assert "timed over 4 of 1,000 steps" in " ".join(result.stdout.split())


def test_json_has_everything(basis):
    result = json.loads(basis("bench", "speed", *QUICK, "--device", "cpu", "--json", "-q").stdout)
    assert result["prior"] == result["baseline"] == "toy-gaussian"
    assert set(result["ratios"]) >= {"seconds_many", "seconds_one", "evaluations_a_second"}
    assert result["ours"]["settings"]["sampler"] == "project"
    assert result["paper"]["settings"]["sampler"] == "langevin"


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--baseline", "ncsn-papr-untrained"], 3, "did you mean 'ncsn-paper-untrained'"),
        (["--baseline", "ncsn-paper-untrained"], 2, "not the same pictures"),
        (["--steps", 3], 2, "no option 'steps'"),
        (["--compile"], 2, "leave out --compile"),
    ],
)
def test_errors(basis, arguments, code, says):
    result = basis("bench", "speed", *QUICK, "--device", "cpu", *arguments)
    assert result.exit_code == code, result.output
    assert says in result.stderr


def test_samplers_prints_a_table_and_draws_it(basis, digits):
    run = [
        "bench",
        "samplers",
        "--prior",
        "toy-mixture",
        "--data-dir",
        digits(),
        "--pairs",
        4,
        "--budgets",
        "10,20",
        "-q",
    ]
    result = basis(*run, "--only", "ep", "--only", "project", "--plot", "figures/frontier.png")
    assert result.exit_code == 0, result.output
    assert "project" in result.stdout
    assert "langevin" not in result.stdout
    assert "paper: average 14.9" in " ".join(result.stdout.split())
    assert Path("figures/frontier.png").stat().st_size > 5000
    report = json.loads(basis(*run, "--only", "ep", "--json").stdout)
    assert [row["evaluations"] for row in report["rows"]] == [10, 20]
    unknown = basis(*run, "--only", "speed")
    assert unknown.exit_code == 2
    assert "ep, mode of 4" in unknown.stderr


def test_samplers_reads_a_folders_pictures_at_the_priors_size(basis, picture, tmp_path):
    for split in ("train", "test"):
        (tmp_path / "photographs" / split).mkdir(parents=True)
        for i in range(5):
            picture(f"photographs/{split}/{i}.png", seed=i, size=(20, 16))
    run = ["bench", "samplers", "--prior", "toy-mixture", "--data", "photographs", "--pairs", 2, "--budgets", "10"]
    result = basis(*run, "--only", "ep", "-q", "--json")
    assert result.exit_code == 0, result.output
    assert len(json.loads(result.stdout)["rows"]) == 1
