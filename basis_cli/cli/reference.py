"""``python -m basis_cli.cli.reference > docs/cli.md``: every command of this distribution, from its help."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import distribution
from inspect import cleandoc
from typing import Any

import typer
from rich.text import Text
from typer.main import get_command

from . import app

COMMAND = "python -m basis_cli.cli.reference > docs/cli.md"
HEADER = f"<!-- Written by `{COMMAND}`: change the help of the commands instead. -->\n\n# Commands"


def reference(application: typer.Typer = app) -> str:
    """Markdown that documents every command; those that plugins of others have added are left out."""
    entries = distribution("basis-cli").entry_points.select(group="basis")
    packages = {"basis_cli", *(entry.value.partition(".")[0] for entry in entries)}
    return "\n\n".join([HEADER, *_sections(get_command(application), "basis", None, packages)]) + "\n"


def _sections(command: Any, name: str, parent: Any, packages: set[str]) -> Iterator[str]:
    """The section of ``command``, and those of the commands below it, in their order of ``--help``."""
    context = command.make_context(name, [], parent=parent, resilient_parsing=True)
    children = getattr(command, "commands", None)
    below = [
        section
        for child in (children or {}).values()
        if not child.hidden
        for section in _sections(child, child.name, context, packages)
    ]
    ours = getattr(command.callback, "__module__", "").partition(".")[0] in packages
    if not (below or (ours and children is None)):
        return
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    shown = [p for p in command.get_params(context) if p.name != "help" and not p.hidden]
    yield f"## `{context.command_path}`"
    yield f"    {usage}"
    yield _prose(command.help or "")
    if shown:
        yield "\n".join(["| | |", "| --- | --- |", *(_row(parameter, context) for parameter in shown)])
    yield from below


def _prose(text: str) -> str:
    """Rich markup as Markdown without emphasis; nothing in it is taken for Markdown but `code`."""
    plain = Text.from_markup(cleandoc(text).replace("\f", "")).plain
    parts = re.split(r"(`[^`]*`)", plain)
    return "".join(part if part.startswith("`") else re.sub(r"([*<\\])", r"\\\1", part) for part in parts)


def _row(parameter: Any, context: Any) -> str:
    spelling, text = parameter.get_help_record(context)
    written = parameter.help or ""
    told = _prose(written) + text.removeprefix(written)  # behind the help: default and limits, in brackets, no markup
    spelling, told = (" ".join(part.split()).replace("|", r"\|") for part in (spelling, told))
    return f"| `{spelling}` | {told} |"


if __name__ == "__main__":
    print(reference(), end="")
