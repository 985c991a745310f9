"""Runs that are killed at any time, and runs beside each other in one folder: nothing is lost, nothing half written.

``pytest tests/fuzz --all`` kills a hundred runs and starts twenty pairs; without ``--all`` a few.
"""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from basis_cli.cli.answers import listed
from basis_cli.cli.app import app

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
NAMES = ("a.png", "b.png", "c.png")
COMMAND = ["separate", *NAMES, "--prior", "toy-mixture", "--sampler", "ep", "--levels", "40", "--batch", "2", "-q"]


def begun(*options: str) -> int:
    """The command in a process of its own, which is there at once: it has imported what this one has."""
    process = os.fork()
    if not process:
        code = 70
        try:
            torch.set_num_threads(1)
            code = CliRunner().invoke(app, [*COMMAND, *options]).exit_code
        finally:
            os._exit(code)
    return process


def ended(process: int) -> int:
    """Its exit code, or minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def made() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path("out").glob("*") if path.suffix != ".json"}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """``folder(i)`` is a new one with three mixtures in it, where commands run from now on."""

    def new(name: object) -> Path:
        path = tmp_path / str(name)
        path.mkdir()
        monkeypatch.chdir(path)
        for seed, file in enumerate(NAMES):
            Image.fromarray(np.random.default_rng(seed).integers(60, 200, (8, 8), np.uint8)).save(file)
        return path

    return new


@pytest.fixture
def unbroken(folder):
    """What the command makes if nothing happens, and in how many seconds."""
    folder("unbroken")
    began = time.monotonic()
    assert ended(begun()) == 0
    return made(), time.monotonic() - began


def rounds(request, few: int, all: int) -> range:
    return range(all if request.config.getoption("--all", default=False) else few)


def test_killed_runs_lose_nothing(request, folder, unbroken):
    expected, seconds = unbroken
    rng, kills = random.Random(request.config.getoption("--seed", default=0)), 0
    for number in rounds(request, 3, 100):
        folder(number)
        Path("out").mkdir()
        Path("out/mine.txt").write_text("mine")
        for _ in range(1 + number % 2):  # half of them twice
            process = begun("--resume")
            time.sleep(rng.uniform(0, 0.8 * seconds))
            os.kill(process, signal.SIGKILL)
            kills += ended(process) == -signal.SIGKILL
        for record in Path("out").glob("*.json"):  # what is said to be done is there, whole
            assert all(Image.open(file).load() for file in listed(record))
        assert ended(begun("--resume")) == 0
        assert made() == expected | {"mine.txt": b"mine"}
    assert kills > 0


@pytest.mark.parametrize("options", [["--resume"], []])
def test_two_runs_in_one_folder(request, folder, unbroken, options):
    expected, seconds = unbroken
    rng = random.Random(request.config.getoption("--seed", default=0))
    for number in rounds(request, 2, 20):
        folder(number)
        one = begun(*options)
        time.sleep(rng.choice([0, rng.uniform(0, 0.5 * seconds)]))
        other = begun(*options)
        codes = sorted([ended(one), ended(other)])
        assert codes == ([0, 0] if options else [0, 2])  # without --resume the second one finds results
        assert made() == expected
