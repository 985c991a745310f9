"""``basis weights``: the files that priors, and the network behind cifar-FID, are loaded from."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from .. import weights
from ..api import WeightFile
from ..errors import UsageError, WeightsError
from ..plugins import plugins, prior_spec
from .output import fail, stderr, stdout

app = typer.Typer(no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="As `basis weights list` names it, mostly a prior.", show_default=False)]
FEATURES = weights.FEATURES.file.removesuffix(".safetensors")


class Kind(str, Enum):
    ncsn = "ncsn"
    glow = "glow"


@app.callback()
def main() -> None:
    """Find, check, download and convert the files that priors and cifar-FID are loaded from."""


@app.command("list")
def list_(as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False) -> None:
    """Show the weights of every prior, and those behind cifar-FID, and where they are."""
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
    typer.echo(weights.find(_file(name)))


@app.command()
def pull(name: Name) -> None:
    """Download weights into your cache folder and print where they are."""
    file = _file(name)
    with stderr.status(f"downloading {file.file}"):
        downloaded = weights.pull(file)
    typer.echo(downloaded)


@app.command()
def convert(
    kind: Annotated[Kind, typer.Argument(help="What the checkpoint holds.")],
    checkpoint: Annotated[
        Path,
        typer.Argument(
            exists=True, dir_okay=False, help="Somebody else's file: checkpoint.pth (ncsn), model.ckpt.index (glow)."
        ),
    ],
    out: Annotated[Path, typer.Argument(dir_okay=False, help="The file to write, for example mine.safetensors.")],
    size: Annotated[
        int | None, typer.Option(min=1, help="Width and height of its pictures; default: 28 if gray, else 32.")
    ] = None,
    sigma: Annotated[
        float | None,
        typer.Option(min=0, help="glow: enter it into the ladder.json beside the file, as this noise level."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if there is one.")] = False,
) -> None:
    """Turn the original authors' checkpoint into weights that `--weights` takes."""
    if out.exists() and not overwrite:
        raise UsageError(f"{out} exists", "--overwrite replaces it")
    if kind is Kind.ncsn:
        if sigma is not None:
            raise UsageError("--sigma is for glow", "an ncsn checkpoint holds all noise levels")
        from basis_ncsn.convert import convert as convert_ncsn

        about = convert_ncsn(checkpoint, out, size)
    else:
        from basis_glow.convert import convert as convert_glow

        about = convert_glow(checkpoint, out, size, sigma)
    for key, value in about.items():
        stderr.print(f"{key}: {value}", markup=False, highlight=False)
    typer.echo(out)


def _files() -> dict[str, tuple[WeightFile, str]]:
    """Every file and its licence, by the name to type: a prior's (``plugin/name`` where another plugin holds the short
    one), or the feature network's.
    """
    files = {
        f"{plugin.name}/{name}" if name in plugin.clashes else name: (spec.weights, spec.licence)
        for plugin in plugins()
        for name, spec in plugin.priors.items()
        if spec.weights
    }
    return files | {FEATURES: (weights.FEATURES, "")}


def _file(name: str) -> WeightFile:
    if name == FEATURES:
        return weights.FEATURES
    spec = prior_spec(name)
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
