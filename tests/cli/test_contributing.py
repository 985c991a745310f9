"""What CONTRIBUTING.md shows works as it stands there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

TEXT = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()
HOOK = """
from basis_cli.api import hookimpl


@hookimpl
def basis_tasks():
    return list(TASKS)
"""


@pytest.fixture
def deblur(tmp_path):
    """``deblur("deblur", "a.png")``: ``basis`` where the example of an operator with its command is installed."""
    (source,) = (block for block in re.findall(r"```python\n(.*?)```", TEXT, re.S) if "class Deblur" in block)
    (tmp_path / "deblurring.py").write_text(source + HOOK)
    info = tmp_path / "deblurring-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: deblurring\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[basis]\ndeblurring = deblurring\n")
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))

    def run(*arguments):
        command = [sys.executable, "-m", "basis_cli", *map(str, arguments)]
        done = subprocess.run(
            command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_one_file_is_an_operator_with_its_command_and_its_evaluation(deblur, tmp_path):
    sharp = np.random.default_rng(0).uniform(0.3, 0.7, (8, 8))
    blurred = (sharp + np.roll(sharp, 1, 1) + np.roll(sharp, 2, 1)) / 3  # by hand
    Image.fromarray((blurred * 255).round().astype(np.uint8)).save(tmp_path / "blurred.png")
    quick = ["--prior", "toy-gaussian", "--levels", 10, "-q", "--json"]
    (record,) = json.loads(deblur("deblur", "blurred.png", "--length", 3, *quick))["results"]
    assert (record["task"], record["settings"]["sampler"]) == ("deblur", "conjugate")
    assert record["answers"][0]["residual_8bit_rms"] < 1
    assert "deblurring" in deblur("evaluate", "--help")
