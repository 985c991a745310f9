"""``basis separate`` from the outside: files, records, exit codes, and everything that can go wrong."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import basis_cli
from basis_cli.compute import multiplies_bfloat16

QUICK = ["--prior", "toy-mixture", "--sampler", "langevin", "--levels", "3", "--steps", "4"]


def pixels(path: Path | str) -> np.ndarray:
    return np.asarray(Image.open(path), np.float64) / 255


def test_writes_components_that_add_up_and_a_record(basis, picture, tmp_path):
    result = basis("separate", picture(), "-k", 2, *QUICK, "--quiet")
    assert result.exit_code == 0, result.output
    assert result.stdout.split() == ["out/mix.x1.png", "out/mix.x2.png"]
    record = json.loads(Path("out/mix.json").read_text())
    assert record["prior"] == ["toy-mixture"]
    assert record["settings"]["seed"] == 0
    assert record["evaluations"] == 12
    components = [pixels(path) for path in record["answers"][0]["components"]]
    residual = np.sqrt(((sum(components) / 2 - pixels("mix.png")) ** 2).mean()) * 255
    assert residual < record["answers"][0]["residual_8bit_rms"] + 0.5  # rounding to 8 bits
    assert "psnr_db" not in record["answers"][0]


def test_components_are_ordered_by_psnr_to_the_mixture(basis, picture):
    basis("separate", picture(), "-k", 3, *QUICK, "--quiet")
    mixture = pixels("mix.png")
    errors = [((pixels(f"out/mix.x{i}.png") - mixture) ** 2).mean() for i in (1, 2, 3)]
    assert errors == sorted(errors)


def test_references_decide_the_order_and_give_psnr(basis, picture):
    basis("separate", picture(), *QUICK, "--quiet", "-o", "first")
    one, two = "first/mix.x1.png", "first/mix.x2.png"
    for order, name in (((one, two), "same"), ((two, one), "swapped")):
        references = [argument for path in order for argument in ("--reference", path)]
        result = basis("separate", "mix.png", *QUICK, "--quiet", "-o", name, "--json", *references)
        answer = json.loads(result.stdout)["results"][0]["answers"][0]
        assert min(answer["psnr_db"]) > 40  # the references are this very answer, rounded to 8 bits
        assert np.array_equal(pixels(f"{name}/mix.x1.png"), pixels(order[0]))


def test_unequal_coefficients_keep_their_components(basis, picture):
    result = basis("separate", picture(), *QUICK, "--alpha", "0.8,0.2", "--json", "--quiet")
    record = json.loads(result.stdout)["results"][0]
    assert record["settings"]["alpha"] == [0.8, 0.2]
    first, second = (pixels(path) for path in record["answers"][0]["components"])
    assert np.sqrt(((0.8 * first + 0.2 * second - pixels("mix.png")) ** 2).mean()) * 255 < 12


def test_two_priors_keep_their_order(basis, picture):
    options = [
        "--prior",
        "toy-gaussian",
        "--prior",
        "toy-mixture",
        "--sampler",
        "langevin",
        "--levels",
        2,
        "--steps",
        2,
        "--quiet",
    ]
    assert basis("separate", picture(), *options).exit_code == 0
    assert json.loads(Path("out/mix.json").read_text())["prior"] == ["toy-gaussian", "toy-mixture"]


def test_same_seed_same_files_alone_or_among_others(basis, picture):
    names = [picture(f"mix{i}.png", seed=i) for i in range(5)]
    basis("separate", *names, *QUICK, "--quiet", "--seed", 7, "-o", "together")
    basis("separate", *names, *QUICK, "--quiet", "--seed", 7, "-o", "by-twos", "--batch", 2)
    basis("separate", names[3], *QUICK, "--quiet", "--seed", 7, "-o", "alone")
    basis("separate", *names[::-1], *QUICK, "--quiet", "--seed", 7, "-o", "backwards")
    basis("separate", names[3], *QUICK, "--quiet", "--seed", 8, "-o", "other")
    folders = ("together", "by-twos", "alone", "backwards", "other")
    files = {name: Path(name, "mix3.x1.png").read_bytes() for name in folders}
    assert files["together"] == files["by-twos"] == files["alone"] == files["backwards"]
    assert files["other"] != files["alone"]


def test_each_picture_has_noise_of_its_own_which_the_record_states(basis, picture):
    names = [picture(f"mix{i}.png", seed=i % 2) for i in range(3)]
    basis("separate", *names, *QUICK, "--quiet", "--samples", 2)
    seeds = [json.loads(Path(f"out/mix{i}.json").read_text())["noise_seeds"] for i in range(3)]
    assert seeds[0] == seeds[2]
    assert len({*seeds[0], *seeds[1]}) == 4
    options = {"prior": "toy-mixture", "samples": 2, "sampling": basis_cli.Sampling("langevin", levels=3, steps=4)}
    together, alone = (basis_cli.separate(given, **options) for given in (names[:2], names[1]))
    assert together.seeds == seeds[:2]
    assert torch.equal(together.components[:, 1:], alone.components)


def test_several_samples_are_ranked_and_the_single_one_is_among_them(basis, picture):
    basis("separate", picture(), *QUICK, "--quiet", "-o", "one")
    result = basis("separate", "mix.png", *QUICK, "--quiet", "--samples", 3, "-o", "three")
    assert len(result.stdout.split()) == 6
    single = {Path(f"one/mix.x{i}.png").read_bytes() for i in (1, 2)}
    several = [{Path(f"three/mix.s{s}.x{i}.png").read_bytes() for i in (1, 2)} for s in (1, 2, 3)]
    assert several.count(single) == 1
    record = json.loads(Path("three/mix.json").read_text())
    likelihoods = record["log_likelihood_nats"]
    assert likelihoods == sorted(likelihoods, reverse=True)
    assert sum(record["samples_per_distinct_answer"]) == len(likelihoods) == 3


@pytest.mark.parametrize("how", ["best", "mean"])
def test_select_writes_one_answer(basis, picture, how):
    options = ["--prior", "toy-mixture", "--sampler", "project", "--levels", 5, "--samples", 4, "--quiet"]
    basis("separate", picture(), *options, "-o", "all")
    result = basis("separate", "mix.png", *options, "--select", how)
    assert result.stdout.split() == ["out/mix.x1.png", "out/mix.x2.png"]
    assert len(json.loads(Path("out/mix.json").read_text())["log_likelihood_nats"]) == 4
    best = Path("all/mix.s1.x1.png").read_bytes() == Path("out/mix.x1.png").read_bytes()
    assert best == (how == "best")


def test_uncertainty_writes_a_picture_of_each_pixels_spread(basis, picture):
    options = ["--prior", "toy-gaussian", "--sampler", "mmps", "--levels", 5, "--samples", 5, "--quiet"]
    result = basis("separate", picture(), *options, "--uncertainty", "--select", "mean", "--json")
    record = json.loads(result.stdout)["results"][0]
    files, means = record["uncertainty"]["files"], record["uncertainty"]["mean_std"]
    assert files == ["out/mix.x1.std.png", "out/mix.x2.std.png"]
    assert pixels(files[0]).mean() / 4 == pytest.approx(means[0], abs=0.01)
    assert 0.01 < means[0] < 0.25
    assert "too sure" not in result.stderr
    one = ["--prior", "toy-gaussian", "--sampler", "project", "--levels", 5, "--json", "--uncertainty"]
    timid = basis("separate", "mix.png", *one, "--report", "-o", "timid")
    assert "too sure" not in timid.stderr
    own = json.loads(timid.stdout)["results"][0]
    assert own["uncertainty"]["draws"] == 8
    assert own["uncertainty"]["answers"] == [1]
    assert own["uncertainty"]["mean_std"] == pytest.approx(means, rel=0.5)
    assert own["evaluations"] == 5 + 8 * 4 * 9  # of a level, two derivatives each for the root and the gain
    assert "standard deviation" in Path("timid/report.html").read_text()


def test_uncertainty_compares_samples_where_none_are_drawn_for_it(basis, picture):
    for sampler in ("mmps", "average"):
        refused = basis("separate", picture(), *QUICK, "--sampler", sampler, "--uncertainty", "-o", "other")
        assert refused.exit_code == 2
        assert "--samples" in refused.stderr


def test_a_noisy_picture_is_not_taken_at_its_word(basis, picture):
    options = ["--prior", "toy-gaussian", "--sampler", "conjugate", "--levels", 20, "--quiet"]
    basis("separate", picture(), *options, "-o", "exact")
    basis("separate", "mix.png", *options, "--noise-std", 0.3, "-o", "noisy")
    rough, smooth = (np.abs(np.diff(pixels(f"{out}/mix.x1.png"))).mean() for out in ("exact", "noisy"))
    assert smooth < 0.7 * rough
    refused = basis("separate", "mix.png", *options[:2], "--sampler", "average", "--noise-std", 0.1)
    assert refused.exit_code == 2
    assert "noise_std" in refused.stderr


def test_reads_stdin(basis, picture):
    result = basis("separate", "-", *QUICK, "--quiet", stdin=picture().read_bytes())
    assert result.exit_code == 0, result.output
    assert Path("out/stdin.x1.png").exists()


def test_progress_goes_to_stderr_and_quiet_silences_it(basis, picture):
    loud = basis("separate", picture(), *QUICK, "-o", "loud")
    assert "1 done" in loud.stderr
    assert loud.stdout.split() == ["loud/mix.x1.png", "loud/mix.x2.png"]
    assert basis("separate", "mix.png", *QUICK, "-k", 1, "-q", "-o", "quiet").stderr == ""


def test_dry_run_checks_and_writes_nothing(basis, picture):
    result = basis("separate", picture(), *QUICK, "--dry-run")
    assert result.exit_code == 0
    assert "mix.x1.png" in result.stderr
    assert not Path("out").exists()
    assert basis("separate", "mix.png", *QUICK, "--dry-run", "-k", 0).exit_code == 2


def test_existing_results_are_safe(basis, picture):
    basis("separate", picture(), *QUICK, "--quiet")
    before = Path("out/mix.x1.png").read_bytes()
    refused = basis("separate", "mix.png", *QUICK, "--quiet", "--seed", 5)
    assert refused.exit_code == 2
    assert "--overwrite" in refused.stderr
    assert Path("out/mix.x1.png").read_bytes() == before
    picture("new.png", seed=1)
    skipped = basis("separate", "mix.png", "new.png", *QUICK, "--quiet", "--skip-existing")
    assert skipped.stdout.split() == ["out/new.x1.png", "out/new.x2.png"]
    assert Path("out/mix.x1.png").read_bytes() == before
    assert basis("separate", "mix.png", *QUICK, "--quiet", "--seed", 5, "--overwrite").exit_code == 0
    assert Path("out/mix.x1.png").read_bytes() != before
    assert basis("separate", "mix.png", *QUICK, "--overwrite", "--skip-existing").exit_code == 2


def test_one_bad_file_does_not_stop_the_others(basis, picture, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"not a picture")
    result = basis("separate", "missing.png", "bad.png", picture(), *QUICK, "--quiet")
    assert result.exit_code == 1
    assert "missing.png" in result.stderr
    assert "bad.png" in result.stderr
    assert Path("out/mix.x1.png").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["-k", 0], 2, "k = 0"),
        (["-k", -1], 2, "k = -1"),
        (["--alpha", "0.5"], 2, "1 mixing coefficients for 2"),
        (["--alpha", "a,b"], 2, "not a list of numbers"),
        (["--alpha", "1,nan"], 2, "finite"),
        (["--alpha", "1,0"], 2, "not zero"),
        (["--samples", 0], 2, "samples"),
        (["--levels", 0], 2, "levels"),
        (["--steps", 0], 2, "steps"),
        (["--step-size", "-1"], 2, "step_size"),
        (["--step-size", "nan"], 2, "step-size"),
        (["--batch", 0], 2, "batch"),
        (["--prior", "toy-mixtur"], 3, "did you mean"),
        (["--sampler", "langevni"], 3, "did you mean 'langevin'"),
        (["--device", "cuda:99"], 2, "CUDA"),
        (["--device", "gpu"], 2, "no device"),
        (["--prior", "toy-mixture", "--prior", "toy-mixture", "--prior", "toy-mixture"], 2, "3 priors for 2"),
        (["--reference", "mix.png"], 2, "1 references for 2"),
        (["--reference", "mix.png", "--reference", "none.png"], 1, "none.png"),
    ],
)
def test_wrong_arguments_give_one_clear_line(basis, picture, arguments, code, says):
    prior = [] if "--prior" in arguments else ["--prior", "toy-mixture"]
    result = basis("separate", picture(), *prior, "--quiet", *arguments)
    assert result.exit_code == code, result.output
    assert says in result.stderr
    assert "Traceback" not in result.output
    assert len(result.stderr.strip().splitlines()) == 1
    assert not Path("out").exists()


def test_wrong_size_names_the_way_out(basis, picture):
    refused = basis("separate", picture("wide.png", size=(20, 30)), *QUICK, "--quiet")
    assert refused.exit_code == 1
    assert "--fit" in refused.stderr
    for fit in ("crop", "resize"):
        assert basis("separate", "wide.png", *QUICK, "--quiet", "--fit", fit, "-o", fit).exit_code == 0


def test_two_inputs_of_one_name_are_refused(basis, picture, tmp_path):
    (tmp_path / "a").mkdir()
    picture("a/mix.png")
    result = basis("separate", picture(), "a/mix.png", *QUICK, "--quiet")
    assert result.exit_code == 2
    assert "overwrite each other" in result.stderr


def test_an_output_folder_that_cannot_be_written(basis, picture, tmp_path):
    (tmp_path / "file").write_text("")
    result = basis("separate", picture(), *QUICK, "--quiet", "-o", "file/out")
    assert result.exit_code == 1
    assert "file/out" in result.stderr


BROKEN = """
    from basis_cli.api import PriorSpec, hookimpl

    class Broken:
        shape, sigmas = (1, 8, 8), None
        def at(self, sigma):
            self.sigma = sigma
            return self
        def score(self, x):
            if self.sigma < 0.5:
                return x * float("nan")
            return -x

    @hookimpl
    def basis_priors():
        return [
            PriorSpec("nan", "NaN at low noise", (1, 8, 8), load="broken:nan"),
            PriorSpec("rubbish", "no prior at all", (1, 8, 8), load="broken:rubbish"),
            PriorSpec("raises", "raises", (1, 8, 8), load="broken:raises"),
        ]

    def nan(spec, weights, device):
        return Broken()

    def rubbish(spec, weights, device):
        return "a string"

    def raises(spec, weights, device):
        raise RuntimeError("boom")
"""


def test_a_prior_that_returns_nan_writes_no_black_picture(basis, picture, plugin):
    plugin("broken", BROKEN)
    result = basis(
        "separate", picture(), "--prior", "nan", "--sampler", "langevin", "--levels", 3, "--steps", 2, "--quiet"
    )
    assert result.exit_code == 1
    assert "not finite" in result.stderr
    assert not list(Path("out").glob("*.png"))


def test_a_picture_that_comes_to_nothing_does_not_take_those_beside_it_along(basis, picture, plugin):
    plugin(
        "broken",
        BROKEN.replace("if self.sigma < 0.5:", "if False:")
        .replace("return -x", "return torch.where(x.mean((1, 2, 3), keepdim=True) > 0.6, float('nan'), -x / 2)")
        .replace("class Broken", "import torch\n    class Broken"),
    )
    dark, light = Path("dark.png"), Path("light.png")
    for path, gray in ((dark, 0), (light, 255)):
        Image.new("L", (8, 8), gray).save(path)
    result = basis("separate", dark, light, "--prior", "nan", "--sampler", "project", "--levels", 3, "--quiet")
    assert result.exit_code == 1
    assert "error: light.png: 1 of 1 samples are not finite" in result.stderr
    assert Path("out/dark.x1.png").exists()
    assert not Path("out/light.x1.png").exists()


def test_weights_for_a_formula_are_refused(basis, picture):
    Path("own.safetensors").write_bytes(b"never read")
    for path in ("own.safetensors", "missing.safetensors"):
        result = basis("separate", picture(), "--prior", "toy-gaussian", "--weights", path)
        assert result.exit_code == 4
        assert "takes no weights" in result.stderr


@pytest.mark.parametrize(("name", "says"), [("rubbish", "returned str"), ("raises", "boom")])
def test_a_prior_that_cannot_be_used_is_named(basis, picture, plugin, name, says):
    plugin("broken", BROKEN)
    result = basis("separate", picture(), "--prior", name, "--quiet")
    assert result.exit_code == 1
    assert name in result.stderr
    assert says in result.stderr


def test_ctrl_c_keeps_what_is_done_and_exits_130(picture, tmp_path):
    for i in range(4):
        picture(f"mix{i}.png", seed=i)
    command = [sys.executable, "-m", "basis_cli", "separate", *[f"mix{i}.png" for i in range(4)]]
    command += ["--prior", "toy-mixture", "--sampler", "langevin", "--steps", "300", "--batch", "1", "--quiet"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=os.environ)
    deadline = time.monotonic() + 120
    while not (tmp_path / "out/mix0.json").exists() and time.monotonic() < deadline:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in stderr
    assert "Traceback" not in stderr
    assert (tmp_path / "out/mix0.x1.png").exists()
    assert not (tmp_path / "out/mix3.json").exists()
    assert not list((tmp_path / "out").glob("*.partial"))


def test_a_prior_with_a_likelihood_says_it_of_every_component(basis, picture):
    assert basis("separate", picture(), "--prior", "toy-mixture", "--samples", 2, "-q").exit_code == 0
    for answer in json.loads(Path("out/mix.json").read_text())["answers"]:
        assert len(answer["log_prob_nats"]) == len(answer["bits_per_dim"]) == 2
        for nats, bits in zip(answer["log_prob_nats"], answer["bits_per_dim"], strict=True):
            assert bits == pytest.approx(math.log2(255) - nats / 64 / math.log(2), abs=1e-3)


def test_every_file_that_would_be_written_is_looked_for(basis, picture):
    picture(), picture("mix.sheet.png", seed=1)
    mine = Path("mix.sheet.png").read_bytes()
    refused = basis("separate", "mix.png", *QUICK, "-q", "-o", ".", "--sheet")
    assert refused.exit_code == 2
    assert "mix.sheet.png exists" in refused.stderr
    assert sorted(path.name for path in Path().glob("*")) == ["mix.png", "mix.sheet.png"]
    assert Path("mix.sheet.png").read_bytes() == mine
    assert basis("separate", "mix.png", *QUICK, "-q", "-o", ".").exit_code == 0  # without a sheet
    assert basis("separate", "mix.png", *QUICK, "-q", "-o", ".", "--sheet", "--overwrite").exit_code == 0
    assert Path("mix.sheet.png").read_bytes() != mine


def test_overwriting_takes_away_what_only_the_old_record_lists(basis, picture):
    picture()
    assert basis("separate", "mix.png", *QUICK, "-q", "--samples", 2, "--sheet").exit_code == 0
    Path("out/mix.s3.x1.png").write_text("of somebody else")
    assert basis("separate", "mix.png", *QUICK, "-q", "--overwrite").exit_code == 0
    left = sorted(path.name for path in Path("out").iterdir())
    assert left == ["mix.json", "mix.s3.x1.png", "mix.x1.png", "mix.x2.png"]


def test_names_that_differ_in_case_only_are_refused(basis, picture):
    picture("a.png"), picture("A.png")
    refused = basis("separate", "a.png", "A.png", *QUICK)
    assert refused.exit_code == 2
    assert "would write" in refused.stderr


def test_the_record_tells_what_was_used_not_what_was_asked(basis, picture):
    assert basis("separate", picture(), "--prior", "toy-mixture", "--device", "cpu", "-q").exit_code == 0
    settings = json.loads(Path("out/mix.json").read_text())["settings"]
    expected = {"levels": 25, "sigma_max": 1.3, "overrelaxation": 0.9, "prior_std": 0.22, "noise_std": 0.0}
    assert {name: settings[name] for name in expected} == expected
    assert settings["sigma_min"] == pytest.approx(0.03)
    dtype = "bfloat16" if multiplies_bfloat16(torch.device("cpu")) else "float32"
    assert (settings["device"], settings["dtype"]) == ("cpu", dtype)
    assert settings["torch"] == str(torch.__version__)


def test_a_name_that_stdout_cannot_encode_is_escaped(picture, tmp_path):
    picture("混合.png")
    command = [sys.executable, "-m", "basis_cli", "separate", "混合.png", *map(str, QUICK), "-q"]
    environment = os.environ | {"PYTHONIOENCODING": "cp1252"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert b"\\u6df7\\u5408.x1.png" in done.stdout
    assert (tmp_path / "out" / "混合.x1.png").exists()
