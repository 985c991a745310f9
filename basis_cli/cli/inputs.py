"""Which pictures a command works on, and what their results are called."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from ..errors import InputError, UsageError
from .answers import listed


def named(inputs: list[str], recursive: bool, out: Path) -> tuple[list[str], list[str]]:
    """All pictures in ``inputs``, of folders those in it, and the stem of each one's results.

    It is the file's own, below ``out`` in the same folders as below the folder that was given.

    Raises:
        InputError: a folder holds no picture.
        UsageError: two pictures have one stem: they must not write the same files.
    """
    pairs = [pair for name in inputs for pair in _named(name, recursive, out)]
    names, stems = [name for name, _ in pairs], [stem for _, stem in pairs]
    for stem, count in Counter(stems).items():
        if count > 1:
            raise UsageError(f"two inputs are called {stem!r}: their results would overwrite each other", "rename one")
    return names, stems


def _named(name: str, recursive: bool, out: Path) -> Iterator[tuple[str, str]]:
    from ..data import images

    folder = Path(name)
    if name == "-" or not os.path.isdir(name):
        yield name, "stdin" if name == "-" else folder.stem
        return
    earlier = _results(folder, recursive, out)
    files = [file for file in images.files_in(folder, recursive) if not earlier(file)]
    if not files:
        below = "" if recursive else "; --recursive for those in its folders"
        raise InputError(f"{name} holds no pictures", f"known: {', '.join(images.ENDINGS)}{below}")
    for file in files:
        yield str(file), str(file.relative_to(folder).with_suffix(""))


def _results(folder: Path, recursive: bool, out: Path) -> Callable[[Path], bool]:
    """Whether a file in ``folder`` is no input but a result: all below ``out``, or, where that is the folder itself,
    what records list."""
    here, there = folder.resolve(), out.resolve()
    if here == there:
        records = folder.glob("**/*.json" if recursive else "*.json")
        return {file for record in records for file in listed(record)}.__contains__
    return lambda file: here in there.parents and there in file.resolve().parents
