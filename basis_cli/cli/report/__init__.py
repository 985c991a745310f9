"""``basis report`` and ``--report``: answers as one HTML file that needs nothing else."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ... import __version__
from ...errors import InputError, UsageError
from ..options import Overwrite
from ..records import read

MARK = '<meta name="generator" content="basis'
"""In the head of every report: what may be replaced by another one."""


def report(
    folder: Annotated[Path, typer.Argument(help="Folder of results, or one STEM.json.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="The HTML file. (default: report.html in the folder)")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Show results in one HTML file: what was observed, answers, samples, uncertainty, and how they were made.

    Everything is in the file, the records too. It is read in a browser, without network.
    """
    if folder.is_dir():
        found = sorted(file for file in folder.glob("**/*.json") if _is_record(file))
    else:
        read(folder)
        found = [folder]
    if not found:
        raise InputError(f"{folder} holds no records of answers", "the --out of an earlier run")
    file = out or (folder if folder.is_dir() else folder.parent) / "report.html"
    check(file, overwrite)
    write(file, found)
    print(file)


def _is_record(file: Path) -> bool:
    try:
        read(file)
    except InputError:
        return False
    return True


def check(file: Path, overwrite: bool) -> None:
    """Raise a :class:`UsageError` if ``file`` is there and may not be replaced."""
    if file.is_dir():
        raise UsageError(f"{file} is a folder", "-o NAME.html")
    if os.path.lexists(file) and not overwrite:
        raise UsageError(f"{file} exists", "--overwrite, or another --out")


def replaceable(file: Path) -> bool:
    """Whether ``file`` is a report, which the same command may write again."""
    try:
        with open(file, encoding="utf-8") as opened:
            return MARK in opened.read(500)
    except (OSError, ValueError):
        return False


def write(file: Path, records: Sequence[Path]) -> None:
    """Write the report of ``records`` atomically.

    Raises:
        BasisError: it cannot be written.
    """
    from jinja2 import Environment, PackageLoader

    from ...data import images
    from . import shown
    from .inline import Inline

    kept = [(record, read(record)) for record in records]
    pictures = Inline(sum(shown.count(about) for _, about in kept))
    entries = [shown.entry(number, record, about, pictures) for number, (record, about) in enumerate(kept, 1)]
    environment = Environment(
        loader=PackageLoader(__name__, "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.get_template("page.html").render(
        version=__version__,
        entries=entries,
        records=[about for _, about in kept],
        style=_part("page.css"),
        script=_part("page.js"),
        ramp=shown.RAMP_CSS,
        links=_links(file, kept),
    )
    images.out_folder(file.parent)
    images.write_text(file, page)


def _part(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _links(file: Path, kept: Sequence[tuple[Path, dict[str, Any]]]) -> list[str]:
    """Where the folder of each record is, seen from the report; nothing where it is on another drive."""
    links = []
    for record, _ in kept:
        try:
            links.append(Path(os.path.relpath(record.parent, file.parent)).as_posix())
        except ValueError:
            links.append("")
    return links
