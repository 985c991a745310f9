"""Which pictures a command works on, and how their results are called and stored."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError, UsageError
from .options import Bits, OutputOptions


@dataclass(frozen=True)
class Place:
    """Where answers go, and in which form."""

    folder: Path
    stem: str | None
    """``None``: that of each input."""
    ending: str
    bits: int


def placed(output: OutputOptions) -> Place:
    """A folder, or the one file that ``--out`` names if it ends like a picture.

    Raises:
        UsageError: a format that is not written, or not the one asked for, or not with so many bits; or what 16 bits
            need is missing.
    """
    from ..data import images

    out, asked = output.out, f".{output.format.value}" if output.format else ".png"
    one = out.suffix.lower() in {*images.SAVED, *images.ENDINGS} and not out.is_dir()
    ending = out.suffix if one else {".jpeg": ".jpg", ".tiff": ".tif"}.get(asked, asked)
    form = images.SAVED.get(ending.lower())
    if form is None:
        raise UsageError(f"{out} is of a format that is not written", "png, tif, webp, jpg, or a folder")
    if output.format and form is not images.SAVED[asked]:
        raise UsageError(f"{out} is not {output.format.value}", "leave out --format, or name a folder")
    if output.bits is Bits.sixteen:
        if form["format"] != "PNG":
            raise UsageError("only PNG is written with 16 bits a sample", "--format png")
        images.check_deep_png()
    return Place(out.parent if one else out, out.stem if one else None, ending, int(output.bits.value))


def named(inputs: list[str], recursive: bool, place: Place) -> tuple[list[str], list[str]]:
    """All pictures in ``inputs``, of folders, tars and lists (``@FILE``) those in it, and the stem of each's results.

    It is the file's own, in the same folders as below the folder that was given.

    Raises:
        InputError: a folder, a tar or a list holds no picture, or cannot be read.
        UsageError: two pictures have one stem: they must not write the same files; or one file is named for several.
    """
    pairs = [pair for name in inputs for pair in _named(name, recursive, place.folder)]
    names, stems = [name for name, _ in pairs], [stem for _, stem in pairs]
    if place.stem is not None:
        if len(names) > 1:
            raise UsageError(
                f"{place.stem}{place.ending} is one picture, but there are {len(names)} inputs", "-o FOLDER"
            )
        return names, [place.stem]
    for stem, count in Counter(stems).items():
        if count > 1:
            raise UsageError(f"two inputs are called {stem!r}: their results would overwrite each other", "rename one")
    return names, stems


def _named(name: str, recursive: bool, out: Path) -> Iterator[tuple[str, str]]:
    from ..data import images, sources

    folder = Path(name)
    if name.startswith("@") and not os.path.lexists(name):
        for line in _lines(name[1:]):
            yield from _named(line, recursive, out)
        return
    if sources.is_tar(name):
        yield from _in_tar(name)
        return
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


def _lines(name: str) -> list[str]:
    """The inputs that a text file lists, one a line."""
    try:
        lines = Path(name).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the list {name}: {getattr(error, 'strerror', None) or error}") from error
    if not (named := [line for line in lines if line.strip()]):
        raise InputError(f"{name} lists nothing", "a picture's name in each line")
    return named


def _in_tar(name: str) -> Iterator[tuple[str, str]]:
    """The pictures in a tar, whose results have the names that they have in it."""
    from ..data import images, sources

    found = [Path(member) for member in sources.members(name)]
    found = [member for member in found if member.suffix.lower() in images.ENDINGS and member.name[0] != "."]
    if not found:
        raise InputError(f"{name} holds no pictures", f"known: {', '.join(images.ENDINGS)}")
    for member in found:
        if member.is_absolute() or ".." in member.parts:
            raise InputError(f"{name} holds {member}, which is outside of it", "was it made with bad intentions?")
        yield f"{name}/{member}", str(member.with_suffix(""))


def _results(folder: Path, recursive: bool, out: Path) -> Callable[[Path], bool]:
    """Whether a file in ``folder`` is no input but a result: all below ``out``, or, where that is the folder itself,
    what records list."""
    from .answers import listed

    here, there = folder.resolve(), out.resolve()
    if here == there:
        records = folder.glob("**/*.json" if recursive else "*.json")
        return {file for record in records for file in listed(record)}.__contains__
    return lambda file: here in there.parents and there in file.resolve().parents
