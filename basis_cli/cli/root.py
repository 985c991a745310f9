"""The ``basis`` command itself, to which commands are added. Importing this never imports torch."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from .. import __version__, plugins
from ..errors import BasisError, out_of_memory
from ..tasks import Task
from . import INTERRUPTED, numbers, run
from .output import fail, warnings_as_lines


class Basis(TyperGroup):
    """Refuses numbers out of range; turns errors that the user can act on into one line and an exit code."""

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        numbers.checked(self)

    def invoke(self, ctx: Any) -> Any:
        try:
            with warnings_as_lines():
                return super().invoke(ctx)
        except BasisError as error:
            fail(error)
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as interrupt:
            fail(BasisError("interrupted", "what was finished is kept"))
            raise typer.Exit(INTERRUPTED) from interrupt
        except Exception as error:
            if out_of_memory(error):
                fail(BasisError("out of memory", "fewer or smaller pictures, a smaller --batch, or --dtype bfloat16"))
                raise typer.Exit(BasisError.exit_code) from error
            if "No such command" in getattr(error, "message", "") and (left_out := plugins.left_out()):
                error.message += f" {left_out}"  # type: ignore[attr-defined]
            raise


def _version(value: bool) -> None:
    if value:
        typer.echo(f"basis {__version__}")
        raise typer.Exit


def basis(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Separate and restore pictures by posterior sampling with deep generative priors."""


def root() -> typer.Typer:
    """``basis`` without commands."""
    app = typer.Typer(
        cls=Basis,
        no_args_is_help=True,
        context_settings={"help_option_names": ["-h", "--help"]},
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        help="Separate and restore pictures by posterior sampling with deep generative priors.",
    )
    app.callback()(basis)
    return app


def with_task(kind: type[Task]) -> typer.Typer:
    """``basis`` with a built-in task as its only command: making all the others takes as long as a small picture."""
    app = root()
    app.command(kind.name)(run.command(kind))
    return app
