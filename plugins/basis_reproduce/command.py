"""``basis reproduce``: the papers' tables and figures, beside the published numbers."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from basis_cli.api import UsageError
from basis_cli.cli.commands import (
    ALONE,
    AsJson,
    DataDir,
    Device,
    Dtype,
    DtypeOption,
    Quiet,
    Seed,
    Workers,
    stderr,
    stdout,
    working,
)

from . import EXPERIMENTS, Setup
from . import reproduce as run
from .document import cells, write_document


def reproduce(
    name: Annotated[str, typer.Argument(help="list, an experiment of that list, or document.", show_default=False)],
    full: Annotated[bool, typer.Option("--full/--quick", help="The paper's own counts, or a minute or two.")] = False,
    sizes: Annotated[
        list[str] | None, typer.Option("--set", help="NAME=NUMBER: another count, such as pairs=1000; repeatable.")
    ] = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for NAME.json and NAME.png.")] = Path("out"),
    weights: Annotated[
        list[str] | None, typer.Option(help="PRIOR=FILE: weights of your own for a prior; repeatable.")
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(help="photographs=FOLDER (default: CIFAR-10) or streets=FOLDER: other pictures; repeatable."),
    ] = None,
    data_dir: DataDir = None,
    seed: Seed = 0,
    device: Device = "auto",
    dtype: DtypeOption = Dtype.auto,
    workers: Workers = ALONE,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Run one experiment of the papers and set its numbers beside the published ones.

    [bold]basis reproduce list[/bold] shows them all. [bold]basis reproduce document -o FOLDER[/bold] writes FOLDER.md
    from the results in FOLDER. The same command again takes the rows of a table that an interrupted one has measured.
    """
    if name == "list":
        _list(as_json)
        return
    if name == "document":
        print(write_document(out))
        return
    if data_dir:
        os.environ["BASIS_DATA"] = str(data_dir)
    from basis_cli.api import Compute

    files = named(weights or [], "--weights PRIOR=FILE", "glow-mnist=ladder.json")
    folders = named(data or [], "--data NAME=FOLDER", "photographs=pictures")
    if unknown := sorted(folders.keys() - {"photographs", "streets"}):
        raise UsageError(f"--data: no experiment asks for {unknown[0]!r}", "photographs=FOLDER or streets=FOLDER")
    with stderr.status(Text(name)) as status, working(Compute(), workers, True) as (compute, _):
        if quiet:
            status.stop()
        setup = Setup(
            device,
            dtype.value,
            seed,
            {prior: Path(file) for prior, file in files.items()},
            folders,
            say=lambda doing: status.update(Text(f"{name}: {doing}")),
            sharing=compute.sharing,
        )
        record = run(name, out, full=full, setup=setup, sizes=counts(sizes or []))
    if as_json:
        print(json.dumps(record))
        return
    stdout.print(_table(record))
    for suffix in ("json", "png"):
        stderr.print(f"written: {out / name}.{suffix}", soft_wrap=True)


def named(given: list[str], form: str, example: str) -> dict[str, str]:
    """``["a=b"]`` as ``{"a": "b"}``; ``form`` is that of the option, for who gives something else."""
    pairs = [one.partition("=") for one in given]
    option, _, form = form.partition(" ")
    if not all(name and value for name, _, value in pairs):
        raise UsageError(f"{option} takes {form}", f"for example {option} {example}")
    return {name: value for name, _, value in pairs}


def counts(given: list[str]) -> dict[str, int]:
    """``["pairs=1000"]`` as ``{"pairs": 1000}``."""
    pairs = named(given, "--set NAME=NUMBER", "pairs=1000")
    if not all(number.isdecimal() and int(number) > 0 for number in pairs.values()):
        raise UsageError("--set takes NAME=NUMBER", "for example --set pairs=1000")
    return {name: int(number) for name, number in pairs.items()}


def _list(as_json: bool) -> None:
    if as_json:
        print(json.dumps([{"name": e.name, "source": e.source, "summary": e.summary} for e in EXPERIMENTS.values()]))
        return
    table = Table("name", "source", "what")
    for experiment in EXPERIMENTS.values():
        table.add_row(experiment.name, experiment.source, experiment.summary)
    stdout.print(table)


def _table(record: dict[str, Any]) -> Table:
    head, *lines = cells(record["rows"])
    table = Table(*head, title=f"{record['source']}: {record['summary']}")
    for line in lines:
        table.add_row(*line)
    notes = [
        f"cut: {', '.join(record['cut'])} (--full: all)" if record["cut"] else "",
        *(f"left out: {line}" for line in record["left_out"]),
        record["why"],
    ]
    table.caption = "\n".join(filter(None, notes))
    table.caption_justify = "left"
    return table
