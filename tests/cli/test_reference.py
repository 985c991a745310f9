"""``docs/cli.md`` says what ``--help`` says, ``docs/models.md`` what ``weights/`` holds."""

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


@pytest.mark.skipif(not version("typer").startswith("0.29."), reason="Typer's releases spell options differently")
def test_the_page_is_up_to_date_whatever_the_terminal_and_the_plugins_of_others(plugin, tmp_path):
    plugin("strange", STRANGE)
    terminal = {"COLUMNS": "20", "TERMINAL_WIDTH": "20", "FORCE_COLOR": "1", "BASIS_PLUGINS": "strange"}
    environment = os.environ | terminal | {"PYTHONPATH": str(tmp_path)}
    found = subprocess.run([sys.executable, "-m", "basis_cli", "strange", "--help"], env=environment)
    assert found.returncode == 0
    page = subprocess.check_output([sys.executable, str(DOCS / "cli.py")], env=environment, text=True)
    assert page == (DOCS / "cli.md").read_text("utf-8"), "run: python docs/cli.py > docs/cli.md"


def test_the_page_of_models_is_up_to_date():
    page = subprocess.check_output([sys.executable, str(DOCS / "models.py")], text=True)
    assert page == (DOCS / "models.md").read_text("utf-8"), "run: python docs/models.py > docs/models.md"
