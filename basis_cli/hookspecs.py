"""The whole extension surface: what a plugin may define. All hooks are optional."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    import typer

    from .api import PosteriorSpec, PriorSpec, SamplerSpec
    from .tasks.base import Task

hookspec = pluggy.HookspecMarker("basis")
hookimpl = pluggy.HookimplMarker("basis")


@hookspec
def basis_priors() -> list[PriorSpec]:  # type: ignore[empty-body]
    """The priors this plugin offers. Must be light: never import torch here."""


@hookspec
def basis_posteriors() -> list[PosteriorSpec]:  # type: ignore[empty-body]
    """The direct models this plugin offers, for ``--model``. Must be light."""


@hookspec
def basis_samplers() -> list[SamplerSpec]:  # type: ignore[empty-body]
    """The samplers this plugin offers. Must be light."""


@hookspec
def basis_tasks() -> list[type[Task]]:  # type: ignore[empty-body]
    """The tasks this plugin adds, each a command and, if it says how to evaluate it, an evaluation. Must be light."""


@hookspec
def basis_datasets() -> dict[str, str]:  # type: ignore[empty-body]
    """Data sets by name, each ``"module:function"``: ``(folder, split)`` to pictures ``(n, c, h, w)`` uint8 and labels
    ``(n,)``; it raises ``FileNotFoundError`` where ``folder`` does not hold it."""


@hookspec
def basis_commands(app: typer.Typer) -> None:
    """Add commands to the ``basis`` application. Use Typer objects only, never click, and import nothing heavy.

    ``basis train NAME`` and ``basis weights convert NAME`` are groups that a plugin joins::

        @hookimpl
        def basis_commands(app):
            from basis_cli.api import commands

            from .commands import convert, train

            commands.group(app, "train").command("mine")(train)
            commands.group(app, "weights convert").command("mine")(convert)

    A command cannot replace another: it is left out, and ``basis plugins list`` says so.
    """
