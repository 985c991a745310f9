"""What to cite for a prior, a model, a sampler, or an answer, as BibTeX."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from . import __version__, plugins
from .errors import InputError, UnknownPriorError

ALWAYS = ("basis", "jayaram2020")
"""The software, and the paper that it implements."""


def bibtex(names: Sequence[str] = ()) -> str:
    """The entries for the software and its paper, and for what ``names`` name, each once.

    Args:
        names: priors, models and samplers; or records (``STEM.json``), which stand for all that their answer used.

    Raises:
        UnknownPriorError: nothing has that name.
        InputError: a record that cannot be read.
    """
    known = references()
    keys = [*ALWAYS, *(key for name in names for key in _of_name(name))]
    return "\n\n".join(known.get(key, key) for key in dict.fromkeys(keys)).replace("VERSION", __version__)


def references() -> dict[str, str]:
    """The entries of ``references.bib`` by their keys."""
    text = (Path(__file__).with_name("references.bib")).read_text("utf-8")
    entries = re.split(r"\n\n(?=@)", text.strip())
    return {entry[entry.index("{") + 1 : entry.index(",")]: entry for entry in entries}


def _of_name(name: str) -> Iterator[str]:
    if name.endswith(".json"):
        yield from _of_record(Path(name))
        return
    specs: list[Any] = []
    for look_up in (plugins.sampler_spec, plugins.posterior_spec, plugins.prior_spec):
        try:
            specs.append(look_up(name))
        except UnknownPriorError:
            continue
    if not specs:
        raise UnknownPriorError(f"no prior, model or sampler is called {name!r}", "basis priors list, basis samplers")
    for spec in specs:
        yield from spec.cites


def _of_record(path: Path) -> Iterator[str]:
    try:
        record = json.loads(path.read_text("utf-8"))
        settings = record["settings"]
        names = [*record.get("prior", ()), *filter(None, [record.get("model"), settings.get("sampler")])]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is no record of an answer: {error}", "give the STEM.json that a run wrote") from error
    for name in names:
        yield from _of_name(name)
    if settings.get("samples", 1) > 1 and settings.get("sampler"):
        yield "kong2023"
    if settings.get("tiles") or record.get("tiles"):
        yield "bartal2023"
