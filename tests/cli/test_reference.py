"""``docs/cli.md`` says what ``--help`` says."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
STRANGE = """
from basis_cli.api import hookimpl


@hookimpl
def basis_commands(app):
    @app.command()
    def strange():
        pass
"""


def written(**environment: str) -> str:
    command = [sys.executable, str(DOCS / "cli.py")]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=True).stdout


@pytest.mark.skipif(not version("typer").startswith("0.29."), reason="Typer's releases spell options differently")
def test_the_page_is_up_to_date():
    assert (DOCS / "cli.md").read_text("utf-8") == written(), "run: python docs/cli.py > docs/cli.md"


def test_it_depends_neither_on_the_terminal_nor_on_plugins_of_others(plugin, tmp_path):
    plugin("strange", STRANGE)
    found = [sys.executable, "-m", "basis_cli", "strange", "--help"]
    assert subprocess.run(found, env=os.environ | {"PYTHONPATH": str(tmp_path)}).returncode == 0
    terminal = {"COLUMNS": "20", "TERMINAL_WIDTH": "20", "FORCE_COLOR": "1", "BASIS_PLUGINS": "strange"}
    assert written(PYTHONPATH=str(tmp_path), **terminal) == written()


def test_it_does_not_import_torch():
    code = f"import runpy, sys; runpy.run_path({str(DOCS / 'cli.py')!r}); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0
