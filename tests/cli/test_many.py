"""Many inputs: lists, tar files, and all records in one file."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from basis_cli.data.files import claimed

TOY = ("--prior", "toy-gaussian", "--levels", 3, "-q")


@pytest.fixture
def tar(picture):
    def write(name, *members, mode="w"):
        with tarfile.open(name, mode) as archive:
            for i, member in enumerate(members):
                archive.add(picture("one.png", seed=i), member)
        return name

    return write


def answers(folder):
    return {path.name: path.read_bytes() for path in Path(folder).glob("**/*.png")}


def test_a_list_a_tar_and_a_folder_give_the_same_files(basis, picture, tar):
    Path("in").mkdir()
    for i in range(3):
        picture(f"in/{i}.png", seed=i)
    assert basis("separate", "in", *TOY, "-o", "folder").exit_code == 0
    Path("all.txt").write_text("in/0.png\nin/1.png\n\nin/2.png\n")
    assert basis("separate", "@all.txt", *TOY, "-o", "list").exit_code == 0
    tar("all.tar", "./0.png", "1.png", "2.png", "README", ".hidden.png")
    assert basis("separate", "all.tar", *TOY, "-o", "tar").exit_code == 0
    assert answers("folder") == answers("list") == answers("tar")
    record = json.loads(Path("tar/1.json").read_text())
    assert (record["input"], record["stem"]) == ("all.tar/1.png", "1")
    again = basis("rerun", "tar/1.json", "-o", "again")
    assert "the same files" in again.stderr
    skipped = basis("separate", "all.tar", *TOY[:-1], "-o", "tar", "--skip-existing")
    assert "3 of 3 skipped" in skipped.stderr
    tar("all.tar", "0.png", "2.png", "1.png")
    changed = basis("separate", "all.tar", *TOY, "-o", "tar", "--skip-existing")
    assert changed.exit_code == 2
    assert "another input" in changed.stderr


def test_folders_in_a_tar_are_folders_of_results(basis, tar):
    tar("shard.tar", "a/1.png", "b/1.png")
    assert basis("separate", "shard.tar", *TOY).exit_code == 0
    assert Path("out/a/1.x1.png").exists()
    assert Path("out/b/1.x1.png").exists()


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("@nothing.txt", "cannot read the list nothing.txt"),
        ("@empty.txt", "lists nothing"),
        ("empty.tar", "holds no pictures"),
        ("bad.tar", "cannot read bad.tar"),
        ("zipped.tar", "not compressed"),
        ("outside.tar", "outside of it"),
        ("one.tar/2.png", "has no 2.png"),
    ],
)
def test_lists_and_tars_that_are_none(basis, tar, argument, words):
    Path("empty.txt").write_text("\n")
    Path("bad.tar").write_bytes(b"no tar" * 200)
    tar("empty.tar", "README")
    tar("zipped.tar", "1.png", mode="w:gz")
    tar("outside.tar", "../1.png")
    tar("one.tar", "1.png")
    result = basis("separate", argument, *TOY)
    assert result.exit_code == 1
    assert words in result.stderr
    assert not answers("out")


def lines():
    return [json.loads(line) for line in Path("out/results.jsonl").read_text().splitlines()]


def test_all_records_in_one_file_of_which_the_end_may_be_cut_off(basis, picture):
    names = [picture(f"{i}.png", seed=i) for i in range(3)]
    assert basis("separate", *names[:2], *TOY, "--jsonl").exit_code == 0
    assert [record["stem"] for record in lines()] == ["0", "1"]
    assert not list(Path("out").glob("*.json"))
    refused = basis("separate", *names, *TOY, "--jsonl")
    assert refused.exit_code == 2
    assert "exists" in refused.stderr
    result = basis("separate", *names, *TOY, "--jsonl", "--skip-existing")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.split() == ["out/2.x1.png", "out/2.x2.png"]
    assert [record["stem"] for record in lines()] == ["0", "1", "2"]
    whole = Path("out/results.jsonl").read_bytes()
    Path("out/results.jsonl").write_bytes(whole[:-20])
    again = basis("separate", *names, *TOY, "--jsonl", "--resume", "--json")
    assert [record["stem"] for record in json.loads(again.stdout)["results"]] == ["2"]
    assert [record["files_sha256"] for record in lines()] == [
        json.loads(line)["files_sha256"] for line in whole.splitlines()
    ]
    over = basis("separate", names[0], *TOY, "--jsonl", "--overwrite")
    assert over.exit_code == 0
    assert [record["stem"] for record in lines()] == ["0", "1", "2", "0"]
    Path("out/results.jsonl").write_text("my diary\n")
    result = basis("separate", *names, *TOY, "--jsonl", "--overwrite")
    assert result.exit_code == 1
    assert Path("out/results.jsonl").read_text() == "my diary\n"


def test_a_part_of_the_inputs_at_a_time_gives_the_same_files(basis, picture, monkeypatch):
    from basis_cli.cli import job

    names = [picture(f"{i}.png", seed=i) for i in range(5)]
    assert basis("separate", *names, *TOY, "-o", "whole").exit_code == 0
    monkeypatch.setattr(job, "PART", 2 * 8 * 8 * 4 - 1)
    assert basis("separate", *names, *TOY, "-o", "parts").exit_code == 0
    assert answers("parts") == answers("whole")
    assert (
        json.loads(Path("parts/0.json").read_text())["settings"]
        == json.loads(Path("whole/0.json").read_text())["settings"]
    )


@pytest.mark.parametrize(("theirs", "ours"), [(2000, 1), (1, 2000), (2000, 2000), (3, 2)])
def test_a_run_of_many_inputs_claims_the_folder(tmp_path, monkeypatch, theirs, ours):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    claims = (
        f"with claimed(Path({str(tmp_path)!r}), map(str, range({theirs})), print): print('mine', flush=True); input()"
    )
    command = [sys.executable, "-c", f"from pathlib import Path; from basis_cli.data.files import claimed\n{claims}"]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "mine\n"
    waited = []

    def waiting(name):
        waited.append(name)
        other.communicate("\n")

    with claimed(tmp_path / "elsewhere", ["0"], waiting):
        assert not waited
    with claimed(tmp_path, map(str, range(ours)), waiting):
        assert len(waited) == 1
