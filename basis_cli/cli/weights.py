"""``basis weights``: the files that priors, and the network behind cifar-FID, are loaded from."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from .. import weights
from ..api import PriorSpec, WeightFile
from ..errors import UsageError, WeightsError
from ..plugins import plugins, prior_spec
from .output import fail, stderr, stdout

app = typer.Typer(no_args_is_help=True)
conversions = typer.Typer(no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="As `basis weights list` names it, mostly a prior.", show_default=False)]
FEATURES = weights.FEATURES.file.removesuffix(".safetensors")


@app.callback()
def main() -> None:
    """Find, check, download and convert the files that priors and cifar-FID are loaded from."""


@app.command("list")
def list_(as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False) -> None:
    """Show the weights of every prior and every model, and those behind cifar-FID, and where they are."""
    rows = [_row(name, file, licence) for name, (file, licence) in _files().items()]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    table = Table("name", "file", "bytes", "where", "licence", box=None, header_style="bold")
    for row in rows:
        size = "" if row["bytes"] is None else f"{row['bytes']:,}"
        table.add_row(row["name"], row["file"], size, row["path"] or "missing", row["licence"])
    for column in table.columns:
        column.overflow = "fold"
    stdout.print(table)


@app.command()
def verify(
    names: Annotated[list[str] | None, typer.Argument(help="What to check; default: all.", show_default=False)] = None,
) -> None:
    """Compare each file's SHA-256 with the one stated for it. Exit code 4 if any is corrupt or missing."""
    files = {name: _file(name) for name in names} if names else {name: file for name, (file, _) in _files().items()}
    good = True
    for name, file in files.items():
        found = weights.locate(file)
        try:
            weights.find(file)
            state = "ok"
        except WeightsError as error:
            state, good = "corrupt" if found else "missing", False
            fail(error)
        typer.echo(f"{state}\t{name}\t{found or file.file}")
    if not good:
        raise typer.Exit(WeightsError.exit_code)


@app.command()
def path(name: Name) -> None:
    """Print where weights are, after checking them."""
    spec = _own(name)
    typer.echo(weights.own(spec) if spec else weights.find(_file(name)))


@app.command()
def pull(name: Name) -> None:
    """Download weights into your cache folder and print where they are."""
    spec = _own(name)
    with stderr.status(Text(f"downloading {name}")):
        downloaded = weights.own(spec, download=True) if spec else weights.pull(_file(name))
    typer.echo(downloaded)


@conversions.callback()
def convert() -> None:
    """Turn the original authors' checkpoints into weights that `--weights` takes."""


app.add_typer(conversions, name="convert")


def _files() -> dict[str, tuple[WeightFile, str]]:
    """Every file and its licence, by the name to type: a prior's or a direct model's (``plugin/name`` where another
    plugin holds the short one), or the feature network's.
    """
    files = {
        f"{plugin.name}/{name}" if name in plugin.clashes else name: (spec.weights, spec.licence)
        for plugin in plugins()
        for name, spec in (plugin.posteriors | plugin.priors).items()
        if spec.weights
    }
    return files | {FEATURES: (weights.FEATURES, "")}


def _own(name: str) -> PriorSpec | None:
    """The spec of ``name:own``, ``None`` for any other name."""
    return prior_spec(name) if ":" in name else None


def _file(name: str) -> WeightFile:
    if name == FEATURES:
        return weights.FEATURES
    models = [plugin.posteriors[name] for plugin in plugins() if name in plugin.posteriors]
    spec = models[0] if models else prior_spec(name)
    if spec.weights is None:
        raise UsageError(f"{spec.name} has no weights", "`basis weights list` shows what has")
    return spec.weights


def _row(name: str, file: WeightFile, licence: str) -> dict[str, Any]:
    found, stated = weights.locate(file), None
    try:
        stated = weights.entry(file)
    except WeightsError as error:  # one plugin's broken manifest must not hide the others
        fail(error)
    return {
        "name": name,
        "file": file.file,
        "bytes": found.stat().st_size if found else stated.bytes if stated else None,
        "path": str(found) if found else None,
        "licence": licence or (stated.licence if stated else ""),
    }
