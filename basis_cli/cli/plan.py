"""Which inputs of a command are left to do."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from ..errors import InputError, UsageError
from .options import OutputOptions
from .output import fail, stderr
from .records import to_do
from .results import Results

Pair = tuple[str, str]
"""An input and its stem."""


def planned(
    pairs: Sequence[Pair],
    results: Results,
    output: OutputOptions,
    unlike: Callable[[str, Sequence[Path]], tuple[str, bool]],
) -> tuple[list[Pair], list[list[str]], int]:
    """The inputs to work on: neither those that are done, nor those whose results have too long names.

    With the stems that killed runs had at work, each run's together, and how many inputs were refused.

    Raises:
        UsageError: what is there would be replaced, see :func:`~basis_cli.cli.records.to_do`.
    """
    from ..data.files import remove_partial

    if output.overwrite and (output.skip_existing or output.resume):
        raise UsageError("--overwrite excludes --skip-existing and --resume")
    named = [(name, stem) for name, stem in pairs if _nameable(name, stem, results)]
    places = {stem: i for i, (_, stem) in enumerate(named)}
    begun = _begun_by_killed_runs(places, results) if output.resume else []
    files = [results.files(stem) for _, stem in named]
    skip = (lambda i: unlike(named[i][0], files[i])) if output.skip_existing or output.resume else None
    again = set(to_do(files, output.overwrite, skip, output.resume, results.recorded))
    again |= {places[stem] for chunk in begun for stem in chunk}
    left = [named[i] for i in sorted(again)]
    if skip and not output.quiet:
        stderr.print(f"{len(named) - len(again)} of {len(named)} skipped: they are done")
    if not output.dry_run:
        remove_partial(file for _, stem in left for file in results.all_files(stem))
    return left, begun, len(pairs) - len(named)


def _nameable(name: str, stem: str, results: Results) -> bool:
    """Whether the results' names are short enough for a file system; reported if not."""
    from ..data.files import LONGEST_NAME, partial_name

    if all(len(os.fsencode(partial_name(file.name))) <= LONGEST_NAME for file in results.all_files(stem)):
        return True
    fail(InputError(f"the name of {name} is too long for those of its results", "rename it"))
    return False


def _begun_by_killed_runs(stems: dict[str, int], results: Results) -> list[list[str]]:
    """The inputs that killed runs had at work, each run's together, as their saved states say."""
    from ..posterior.resume import begun

    paths = [path for path in map(results.state, stems) if os.path.lexists(path)]
    return [[stem for stem in begun(path) if stem in stems] for path in paths]
