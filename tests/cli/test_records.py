"""A record tells whether an answer is there already, and is enough to make it again."""

import json
from pathlib import Path

import pytest

TOY = ["--prior", "toy-mixture", "--sampler", "langevin", "--levels", 2, "--steps", 2]


def files(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def edit(record, **changes):
    Path(record).write_text(json.dumps(json.loads(Path(record).read_text()) | changes))


def test_skip_existing_says_how_many_it_skipped(basis, picture):
    names = [picture(f"mix{i}.png", seed=i) for i in range(3)]
    assert "skipped" not in basis("separate", *names[:2], *TOY).stderr
    before = files("out")
    run = basis("separate", *names, *TOY, "--skip-existing", "--seed", 0, "--batch", 1)
    assert run.exit_code == 0, run.stderr
    assert "2 of 3 skipped" in run.stderr
    assert len(run.stdout.split()) == 2
    assert before.items() < files("out").items()


@pytest.mark.parametrize(
    ("change", "options", "why"),
    [
        (lambda: None, ["--steps", 3], "other options"),
        (lambda: None, ["-k", 3], "other options"),
        (lambda: None, ["--prior", "toy-gaussian", "--prior", "toy-mixture"], "other options"),
        (lambda: Path("mix.png").write_bytes(Path("new.png").read_bytes()), [], "another input"),
        (lambda: edit("out/mix.json", weights_sha256={"toy-mixture": "0"}), [], "other weights"),
        (lambda: edit("out/mix.json", basis="0.0.1"), [], "another version"),
        (lambda: Path("out/mix.json").write_text(""), [], "no record"),
        (lambda: Path("out/mix.json").write_text("[1]"), [], "no record"),
        (lambda: Path("out/mix.x2.png").unlink(), [], "not there"),
        (lambda: Path("out/mix.x2.png").write_bytes(Path("out/mix.x2.png").read_bytes()[:50]), [], "not as it was"),
    ],
)
@pytest.mark.parametrize("how", ["--skip-existing", "--resume"])
def test_what_is_there_but_is_not_the_answer_is_an_error(basis, picture, change, options, why, how):
    picture("new.png", seed=1)
    assert basis("separate", picture(), *TOY).exit_code == 0
    change()
    before = files("out")
    run = basis("separate", "new.png", "mix.png", *TOY, *options, how)
    assert run.exit_code == 2
    assert why in run.stderr
    assert "--overwrite" in run.stderr
    assert files("out") == before


def test_what_standard_input_was_is_not_known(basis, picture):
    given = picture().read_bytes()
    assert basis("separate", "-", *TOY, stdin=given).exit_code == 0
    assert basis("separate", "-", *TOY, "--skip-existing", stdin=given).exit_code == 2


def test_pictures_that_are_gone_are_made_again(basis, picture):
    basis("separate", picture(), *TOY)
    before = files("out")
    for i in (1, 2):
        Path(f"out/mix.x{i}.png").unlink()
    run = basis("separate", "mix.png", *TOY, "--skip-existing")
    assert "0 of 1 skipped" in run.stderr
    assert [files("out")[f"mix.x{i}.png"] == before[f"mix.x{i}.png"] for i in (1, 2)] == [True, True]


@pytest.mark.parametrize(
    "command",
    [
        ["separate", "mix.png", *TOY, "-k", 3, "--alpha", "-0.2,0.7,0.5", "--samples", 2, "--uncertainty", "--sheet"],
        ["separate", "mix.png", *TOY, "--reference", "new.png", "--reference", "mix.png", "--format", "tiff"],
        ["separate", "mix.png", "--prior", "toy-mixture", "--fast", "--samples", 2, "--quiet"],
        ["inpaint", "mix.png", *TOY, "--mask", "mask.png", "--invert-mask", "--seed", 5, "--select", "mean"],
    ],
)
def test_a_record_makes_its_answer_again(basis, picture, command):
    picture(), picture("new.png", seed=1), picture("mask.png", seed=2)
    assert basis(*command, "-o", "first").exit_code == 0
    run = basis("rerun", "first/mix.json", "-o", "again")
    assert run.exit_code == 0, run.stderr
    assert "the same files, byte for byte" in run.stderr
    first, again = files("first"), files("again")
    records = [json.loads(each.pop("mix.json")) for each in (first, again)]
    assert first == again
    assert len(first) >= 1
    for name in ("settings", "noise_seeds", "inputs_sha256"):
        assert records[0][name] == records[1][name]
    assert basis("rerun", "first/mix.json", "-o", "again").exit_code == 2
    quiet = basis("rerun", "first/mix.json", "-o", "again", "--overwrite", "--quiet").stderr
    assert not [line for line in quiet.splitlines() if "improbable" not in line]  # a warning is no progress


def test_rerun_says_what_has_changed(basis, picture):
    picture("mask.png", seed=2), picture("new.png", seed=1)
    basis("inpaint", picture(), *TOY, "--mask", "mask.png")
    edit("out/mix.json", basis="0.0.1")
    run = basis("rerun", "out/mix.json", "-o", "again")
    assert run.exit_code == 0
    assert "made by version 0.0.1" in run.stderr
    edit("out/mix.json", settings=json.loads(Path("out/mix.json").read_text())["settings"] | {"temperature": 2.0})
    edit("out/mix.json", files_sha256={"out/mix.x1.png": "0"})
    assert "not the same, byte for byte: other temperature" in basis("rerun", "out/mix.json", "-o", "two").stderr
    for name, state in [("mask.png", "has changed"), ("mix.png", "has changed"), ("mix.png", "is not there")]:
        Path(name).write_bytes(Path("new.png").read_bytes()) if "not" not in state else Path(name).unlink()
        run = basis("rerun", "out/mix.json", "-o", "three")
        assert run.exit_code == 1
        assert f"{name} {state}" in run.stderr
    assert not Path("three").exists()


def test_rerun_with_other_weights_is_an_error(basis, picture):
    assert basis("separate", picture(size=(28, 28)), "--levels", 2).exit_code == 0
    assert "the same files" in basis("rerun", "out/mix.json", "-o", "again").stderr
    edit("out/mix.json", weights_sha256={"ncsn-mnist": "0"})
    run = basis("rerun", "out/mix.json", "-o", "more")
    assert run.exit_code == 4
    assert "ncsn-mnist have changed" in run.stderr


def test_rerun_of_what_is_no_record(basis, picture):
    Path("empty.json").touch()
    assert basis("sample", "--prior", "toy-gaussian", "-n", 1, "--levels", 2).exit_code == 0
    for name in ("empty.json", "nothing.json", "out/toy-gaussian.json"):
        run = basis("rerun", name)
        assert run.exit_code == 1
        assert f"{name} is no record" in run.stderr
    assert basis("separate", "-", *TOY, stdin=picture().read_bytes()).exit_code == 0
    run = basis("rerun", "out/stdin.json")
    assert run.exit_code == 1
    assert "basis separate --prior toy-mixture --sampler langevin --levels 2 --steps 2 - < FILE" in run.stderr
