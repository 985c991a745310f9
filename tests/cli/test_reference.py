"""``docs/cli.md`` says what ``--help`` says."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import typer

from basis_cli.cli.reference import COMMAND, reference

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"


@pytest.mark.skipif(not version("typer").startswith("0.29."), reason="Typer's releases spell options differently")
def test_the_page_is_up_to_date():
    assert PAGE.read_text("utf-8") == reference(), f"docs/cli.md is out of date: run {COMMAND}"


def test_it_does_not_depend_on_the_terminal(monkeypatch):
    before = reference()
    for name, value in {"COLUMNS": "20", "TERMINAL_WIDTH": "20", "FORCE_COLOR": "1", "TERM": "dumb"}.items():
        monkeypatch.setenv(name, value)
    assert reference() == before


def test_commands_of_other_peoples_plugins_are_left_out():
    def strange() -> None:
        """Somebody else's."""

    def ours(pair: str = typer.Option("a|b", help="[bold]Two[/bold] of `a*b`, a*b.")) -> None:
        """Ours."""

    strange.__module__, ours.__module__ = "strange.commands", "basis_ncsn.commands"
    inner, outer = typer.Typer(), typer.Typer(name="other")
    inner.command()(ours)
    inner.command()(strange)
    outer.command()(strange)
    application = typer.Typer()
    application.add_typer(inner, name="inner")
    application.add_typer(outer, name="outer")
    application.callback()(ours)
    page = reference(application)
    assert "## `basis inner ours`" in page
    assert r"Two of `a*b`, a\*b. [default: a\|b] |" in page
    assert "strange" not in page
    assert "outer" not in page


def test_it_is_light():
    code = "import sys; from basis_cli.cli.reference import reference; reference(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
