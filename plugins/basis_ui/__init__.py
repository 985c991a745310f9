"""``basis ui``: a page to use. Importing this does not import torch, nor the server."""

from __future__ import annotations

import typer

from basis_cli.api import hookimpl


@hookimpl
def basis_commands(app: typer.Typer) -> None:
    from .commands import ui, ui_worker

    app.command()(ui)
    app.command("ui-worker", hidden=True, context_settings={"ignore_unknown_options": True})(ui_worker)
