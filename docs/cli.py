"""Write docs/cli.md: every command with its arguments and options, from the help.

python docs/cli.py > docs/cli.md
"""

import os
import re
from collections.abc import Iterator
from importlib.metadata import distribution
from inspect import cleandoc
from typing import Any

os.environ["BASIS_PLUGINS"] = ",".join(
    entry.name for entry in distribution("basis-cli").entry_points if entry.group == "basis"
)  # no commands of other people's plugins

from rich.text import Text
from typer.main import get_command

from basis_cli.cli.app import app

HEADER = "<!-- python docs/cli.py > docs/cli.md: change the help of the commands, not this page. -->\n\n# Commands"


def sections(command: Any, name: str, parent: Any = None) -> Iterator[str]:
    """Markdown for ``command`` and those below it, in the order of ``--help``."""
    context = command.make_context(name, [], parent=parent, resilient_parsing=True)
    yield f"## `{context.command_path}`"
    yield f"    {' '.join([context.command_path, *command.collect_usage_pieces(context)])}"
    yield prose(command.help or "")
    shown = [p for p in command.get_params(context) if p.name != "help" and not p.hidden]
    if shown:
        yield "\n".join(["| | |", "| --- | --- |", *(row(parameter, context) for parameter in shown)])
    for child in getattr(command, "commands", {}).values():
        if not child.hidden:
            yield from sections(child, child.name, context)


def prose(text: str) -> str:
    """Rich's markup as plain text, of which Markdown sees the `code` only."""
    plain = Text.from_markup(cleandoc(text).replace("\f", "")).plain
    parts = re.split(r"(`[^`]*`)", plain)
    return "".join(part if part.startswith("`") else re.sub(r"([*<\\])", r"\\\1", part) for part in parts)


def row(parameter: Any, context: Any) -> str:
    """An option or argument, and what it is for."""
    spelling, text = parameter.get_help_record(context)
    written = parameter.help or ""
    meaning = prose(written) + text.removeprefix(written)  # behind the help: default and limits, which are no markup
    spelling, meaning = (" ".join(part.split()).replace("|", r"\|") for part in (spelling, meaning))
    return f"| `{spelling}` | {meaning} |"


print("\n\n".join([HEADER, *sections(get_command(app), "basis")]))
