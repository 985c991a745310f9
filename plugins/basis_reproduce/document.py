"""docs/results/reproduction.md, robustness.md and posteriors.md, made of the results that ``basis reproduce`` wrote."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from basis_cli.api import InputError, atomically

from . import EXPERIMENTS, Experiment

PAGES = {
    "reproduction": """# The papers' numbers, and ours

Made from the results in `{folder}/` by `basis reproduce document -o docs/results/{folder}`. BASIS is *Source
Separation with Deep Generative Priors* (Jayaram & Thickstun 2020); NCSN is the reproduction of *Generative Modeling by
Estimating Gradients of the Data Distribution* (Song & Ermon 2019) by Matosevic, Hein & Nuzzo; cINN is *Guided Image
Generation with Conditional Invertible Neural Networks* (Ardizzone et al. 2019). Each section is one command, which also
draws the figure. ± is a standard error. *Cut* says what is less than the papers' own counts (`--full`, or `--set`);
[mixtures of digits](separation.md) have larger runs. No prior of faces has been trained, so rows of CelebA are quoted.
""",
    "robustness": """# Mixtures as people have them

Made from the results in `{folder}/` by `basis reproduce document -o docs/results/{folder}`. Each section is one
command, which also draws the figure. PSNR in dB; ± is a standard error. [What the ways of mixing mean, and their
options](../howto/separate.md).
""",
    "posteriors": """# Every posterior on the same photographs

Made from the results in `{folder}/` by `basis reproduce document -o docs/results/{folder}`. Each section is one
command, which also draws the figure: one answer of each to the first pictures. ± is a standard error.
""",
}
"""What the pages of docs/results begin with."""


def shown(value: float | str | None, error: float | None = None) -> str:
    """A number for the eye: ``29.3``, ``28.0 ± 0.3``, ``-`` for none."""
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if error is None:
        return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"
    places = max(0, -math.floor(math.log10(error))) if error > 0 else 2
    return f"{value:.1e} ± {error:.0e}" if places > 4 else f"{value:,.{places}f} ± {error:,.{places}f}"


def section(record: dict[str, Any]) -> str:
    """One experiment as Markdown."""
    command = f"basis reproduce {record['experiment']}"
    if not record["cut"]:
        command += " --full"
    else:
        usual = EXPERIMENTS[record["experiment"]].quick
        sizes = record["sizes"].items()
        command += "".join(f" --set {name}={size}" for name, size in sizes if size != usual[name])
    if record["dtype"] != "auto":
        command += f" --dtype {record['dtype']}"
    took = f", {record['seconds']:.0f} s" if record["seconds"] >= 1 else ""  # else measured in runs before
    notes = [f"Seed {record['seed']}{took}."]
    if record["cut"]:
        notes.append(f"Cut: {', '.join(record['cut'])}.")
    if record["left_out"]:
        notes.append(f"Left out: {'; '.join(record['left_out'])}.")
    heading = f"## {record['source']}: {record['summary']}"
    parts = [heading, f"    {command}", _wrapped(" ".join(notes)), _table(record["rows"]), _wrapped(record["why"])]
    return "\n\n".join(filter(None, parts)) + "\n"


def missing(experiment: Experiment) -> str:
    """The section of an experiment without a result: the published numbers."""
    from .tables import QUOTED

    rows = QUOTED.get(experiment.name, [])
    heading = f"## {experiment.source}: {experiment.summary}"
    why = "No result yet: the published numbers only." if rows else "No result yet."
    parts = [heading, f"    basis reproduce {experiment.name}", why, _table([asdict(row) for row in rows])]
    return "\n\n".join(filter(None, parts)) + "\n"


def cells(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """The lines of a table, its head first: beside ours what was published, or else what was left untouched.

    Of rows that say what they are ``of``, a column for each of those and a line for all that share their ``what``.
    """
    if columns := list(dict.fromkeys(row["of"] for row in rows if row.get("of"))):
        lines: dict[str, dict[str, str]] = {}
        for row in rows:
            lines.setdefault(row["what"], {})[row["of"]] = shown(row["ours"], row["error"])
        return [("", *columns), *((what, *(line.get(of, "-") for of in columns)) for what, line in lines.items())]
    untouched = any(row.get("untouched") is not None for row in rows)
    found: list[tuple[str, ...]] = [("", "untouched" if untouched else "published", "ours", "settings")]
    for row in rows:
        value = row["published"]
        beside = shown(row["untouched"]) if untouched else "-" if value is None else str(value)
        found.append((row["what"], beside, shown(row["ours"], row["error"]), row["settings"]))
    return found


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    head, *lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in cells(rows)]
    return "\n".join([head.replace("|  |", "| |"), "|" + head.count(" |") * " --- |", *lines])


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def document(folder: Path) -> str:
    """The page of the results ``folder/*.json``, in the order of the experiments.

    Raises:
        InputError: a result that cannot be read, or no result at all.
    """
    parts = []
    for page, head in PAGES.items():
        own = [experiment for experiment in EXPERIMENTS.values() if experiment.page == page]
        if any((folder / f"{experiment.name}.json").exists() for experiment in own):
            parts += [head.format(folder=folder.name), *(_found(experiment, folder) for experiment in own)]
    if not parts:
        raise InputError(f"no results in {folder}", "basis reproduce NAME -o FOLDER")
    return "\n".join(parts)


def _found(experiment: Experiment, folder: Path) -> str:
    path = folder / f"{experiment.name}.json"
    try:
        return section(json.loads(path.read_text())) if path.exists() else missing(experiment)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is no result of basis reproduce: {error}") from error


def write_document(folder: Path) -> Path:
    """Write :func:`document` beside ``folder``, as ``FOLDER.md``, and return its path."""
    text = document(folder)
    path = folder.with_name(folder.name + ".md")
    with atomically(path) as partial:
        partial.write_text(text)
    return path
