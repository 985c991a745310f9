"""The application's tree of commands, and what a plugin may do to it: add, not replace."""

from __future__ import annotations

from collections.abc import Iterator

import typer
from typer.main import get_command_name, solve_typer_info_defaults
from typer.models import CommandInfo, TyperInfo


def group(app: typer.Typer, path: str) -> typer.Typer:
    """The group of commands at ``path`` in ``app``, such as ``"train"`` or ``"weights convert"``, to add commands to.

    Raises:
        LookupError: there is no such group.
    """
    for word in path.split():
        found = [info.typer_instance for info in app.registered_groups if solve_typer_info_defaults(info).name == word]
        if not found or found[0] is None:
            raise LookupError(f"basis has no group of commands called {path!r}")
        app = found[0]
    return app


Entry = CommandInfo | TyperInfo


class Tree:
    """The commands and groups of ``app`` as they are now, to compare with and to go back to."""

    def __init__(self, app: typer.Typer):
        self._before = [
            (path, each, each.registered_callback, [*each.registered_commands], [*each.registered_groups])
            for path, each in _groups(app, "basis")
        ]

    def restore(self) -> None:
        """Undo whatever was added since."""
        for _, each, callback, commands, groups in self._before:
            each.registered_callback = callback
            each.registered_commands, each.registered_groups = [*commands], [*groups]

    def keep_new_names(self) -> list[str]:
        """Undo what was added since under a name that was there already; returns those names, ``"basis train"``."""
        refused = [path for path, each, callback, *_ in self._before if each.registered_callback is not callback]
        now = [_entries(each) for _, each, *_ in self._before]
        self.restore()
        for (path, each, *_), entries in zip(self._before, now, strict=True):
            before = _entries(each)
            taken = set().union(*map(_names, before))
            for entry in entries:
                if entry in before:
                    continue
                names = _names(entry)
                if names & taken:
                    refused += [f"{path} {name}" for name in sorted(names & taken)]
                elif isinstance(entry, CommandInfo):
                    each.registered_commands.append(entry)
                else:
                    each.registered_groups.append(entry)
                taken |= names
        return refused


def _groups(app: typer.Typer, path: str) -> Iterator[tuple[str, typer.Typer]]:
    yield path, app
    for info in app.registered_groups:
        if info.typer_instance:
            yield from _groups(info.typer_instance, f"{path} {solve_typer_info_defaults(info).name or ''}".strip())


def _entries(app: typer.Typer) -> list[Entry]:
    return [*app.registered_commands, *app.registered_groups]


def _names(entry: Entry) -> set[str]:
    """What a command or a group is called; a group without a name lends its place to the commands in it."""
    if isinstance(entry, CommandInfo):
        return {entry.name or get_command_name(entry.callback.__name__)} if entry.callback else set()
    name = solve_typer_info_defaults(entry).name
    if name or entry.typer_instance is None:
        return {name} if name else set()
    return set().union(*map(_names, _entries(entry.typer_instance)))
