"""``basis bench`` from the outside."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from basis_cli.cli.peers import section
from basis_cli.evaluation.peers import gains

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


@pytest.fixture
def judge(monkeypatch):
    """In place of EfficientNet-Lite0, which is an extra: pixels are the features."""

    class Pixels:
        def layers(self, x):
            return [x]

    monkeypatch.setattr("basis_cli.evaluation.imagenet.imagenet", lambda device: Pixels())


STROKES = """
    from basis_cli.api import PriorSpec, hookimpl

    @hookimpl
    def basis_priors():
        return [PriorSpec("soft", "Soft blobs", (1, 12, 12), load="strokes:load")]

    def load(spec, weights, device):
        from basis_toy.prior import soft_blobs
        return soft_blobs(spec.shape)
"""


def test_peers_measures_writes_the_page_and_goes_on(basis, digits, judge, plugin):
    plugin("strokes", STROKES)
    run = ["bench", "peers", "separation", "--prior", "soft", "--data-dir", digits(12), "--count", 4]
    run += ["--evaluations", 30, "-q", "-o", "found/peers"]
    only = [word for name in ("no prior", "default", "dps", "dpir", "msdm") for word in ("--only", name)]
    first = basis(*run, *only, "--json")
    assert first.exit_code == 0, first.output
    (record,) = json.loads(first.stdout)
    assert {row["name"]: row["evaluations"] for row in record["rows"]} == {
        "no prior": 0,
        "default": 50,
        "dps": 30,
        "dpir": 8,
        "msdm": 30,
    }
    assert all(len(row[measure]) == 4 for row in record["rows"] for measure in ("psnr", "ssim", "feature_distance"))
    page = Path("found/peers.md").read_text()
    mean = sum(record["rows"][0]["psnr"]) / 4
    assert f"| no prior | 0 | {mean:.2f} ±" in page
    assert "| default: ep, 25 levels | 50 |" in page
    again = json.loads(basis(*run, "--only", "dps", "--only", "ddrm", "--json").stdout)[0]["rows"]
    assert [row["name"] for row in again] == ["no prior", "default", "dps", "ddrm", "dpir", "msdm"]
    assert [row for row in again if row["name"] != "ddrm"] == record["rows"]  # seconds too: not measured again
    others = json.loads(basis(*run, "--only", "dpir", "--seed", 1, "--json").stdout)[0]["rows"]
    assert [row["name"] for row in others] == ["dpir"]
    Path("found/peers/separation.json").write_text("{}")
    broken = basis(*run)
    assert (broken.exit_code, len(broken.stderr.splitlines())) == (1, 1)


def test_the_page_says_which_peers_are_ahead():
    def row(name, psnr, distance):
        figures = {"psnr": psnr, "ssim": [0.5, 0.6, 0.7, 0.6], "feature_distance": distance}
        return {"name": name, "evaluations": 50, "seconds": 1, "settings": {"sampler": "ep", "levels": 25}} | figures

    near = [0.3, 0.3, 0.31, 0.3]
    rows = [row("default", [20, 22, 24, 26], near), row("ddrm", [20.9, 23.1, 25, 27], near)]
    rows += [row("dps", [19, 21, 23, 25], [0.2, 0.21, 0.2, 0.19]), row("project", [30] * 4, near)]
    found = gains(rows)
    assert found["psnr"] == [("ddrm", pytest.approx(1.0), pytest.approx(0.0408, abs=1e-3)), ("dps", -1, 0)]
    about = {"task": "half", "prior": "a", "data": "b", "weights_sha256": {}, "pictures": 4, "evaluations": 50}
    page = " ".join(section(about | {"seed": 0, "dtype": "auto", "threads": 1, "device": "cpu", "rows": rows}).split())
    assert "PSNR: `ddrm` by 1 ± 0.041; SSIM: none; feature distance: `dps` by 0.103 ± 0.0048." in page
    assert "differences: PSNR: none; SSIM: `ddrm`, `dps`; feature distance: `ddrm`." in page


@pytest.mark.parametrize(("arguments", "says"), [(["colours"], "separation, half"), (["--only", "dpss"], "dps, pigdm")])
def test_peers_knows_what_it_compares(basis, arguments, says):
    result = basis("bench", "peers", *arguments)
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert says in result.stderr
