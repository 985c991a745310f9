"""What a record says so that an answer can be made again, and ``basis rerun``, which does it."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import warnings
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from .. import __version__
from ..errors import InputError, RunWarning, UsageError, WeightsError
from .options import AsJson, Out, Overwrite, Quiet
from .output import stderr

if TYPE_CHECKING:
    from ..api import PosteriorSpec, PriorSpec
    from .ledger import Ledger

ELSEWHERE = {"inputs", "out", "format", "recursive", "overwrite", "skip_existing", "resume", "as_json", "quiet"}
ELSEWHERE |= {"dry_run", "batch", "workers", "cluster", "slurm", "send", "jsonl", "report", "preview"}
"""Parameters that other fields of a record tell, or that do not change the answers."""


class Options(NamedTuple):
    """The options of a command, as a record states them."""

    words: list[str]
    """As one types them, those left at their defaults and :data:`ELSEWHERE` left out."""
    files: list[str]
    """Those of the words that name a file."""


def options(context: typer.Context) -> Options:
    """Those that the command was given."""
    words, files = [], []
    for option in context.command.params:
        value = context.params.get(str(option.name))
        if option.name in ELSEWHERE or value in (None, (), []) or value == option.get_default(context):
            continue
        if isinstance(value, bool):
            words.append((option.opts if value else option.secondary_opts)[0])
            continue
        for each in value if isinstance(value, (list, tuple)) else [value]:
            words += [option.opts[0], str(getattr(each, "value", each))]
            files += [str(each)] if isinstance(each, (str, Path)) and os.path.isfile(each) else []
    return Options(words, files)


def contents(names: Sequence[str | Path]) -> dict[str, str | None]:
    """The SHA-256 of each file; ``None`` of what is not there, or can be read only once."""
    from ..data.sources import content
    from ..weights import sha256

    found: dict[str, str | None] = {}
    for name in names:
        try:
            if (inside := content(str(name))) is not None:
                found[str(name)] = hashlib.sha256(inside).hexdigest()
            else:
                found[str(name)] = sha256(Path(name)) if os.path.isfile(name) else None
        except (OSError, InputError):  # it may not be read
            found[str(name)] = None
    return found


def weights_sha256(specs: Mapping[str, PriorSpec | PosteriorSpec], weights: Path | None) -> dict[str, str]:
    """That of each name's weights, where it has any."""
    from .. import weights as store

    paths = {name: store.of(spec, weights) for name, spec in specs.items()}
    return {name: store.remembered_sha256(path) for name, path in paths.items() if path}


def read(record: Path, recorded: Ledger | None = None) -> dict[str, Any]:
    """The record of an answer, in a file of its own or among those ``recorded`` together.

    Raises:
        InputError: it cannot be read, or is none.
    """
    try:
        together = recorded is not None and record in recorded
        about = recorded[record] if together else json.loads(record.read_text(encoding="utf-8"))  # type: ignore[index]
        if all(key in about for key in ("input", "options", "inputs_sha256", "files_sha256", "weights_sha256")):
            return about
        reason = "it does not say how a picture was made"
    except (OSError, ValueError, TypeError) as error:
        reason = str(error)
    raise InputError(f"{record} is no record of an answer: {reason}", "the STEM.json beside STEM.x1.png")


def unlike(
    record: Path, files: Sequence[Path], about: Mapping[str, Any], recorded: Ledger | None = None
) -> tuple[str, bool]:
    """Why what is there is not the answer of this run, if so, and whether only its files are missing.

    Args:
        files: all that would be written, the record last.
        about: what of this run's record is known beforehand.
        recorded: where records are, if not each in a file of its own.
    """
    try:
        before = read(record, recorded)
    except InputError as error:
        return error.message, False
    changed = {"basis": "another version", "task": "another task", "options": "other options"}
    changed |= {"weights_sha256": "other weights", "inputs_sha256": "another input"}
    for key, what in changed.items():
        was, now = (list(each[key].values()) if "sha256" in key else each[key] for each in (before, about))
        if was != now or (key == "inputs_sha256" and None in now):
            return f"{record} is of {what}", False
    there = contents(files[:-1])
    names = {Path(name).name: sha256 for name, sha256 in before["files_sha256"].items()}
    for name, sha256 in there.items():
        if names.get(Path(name).name) != sha256:
            return f"{name} is {'not there' if sha256 is None else 'not as it was written'}", not any(there.values())
    return "", False


def to_do(
    files: Sequence[Sequence[Path]],
    overwrite: bool,
    skip: Callable[[int], tuple[str, bool]] | None = None,
    resume: bool = False,
    recorded: Container[Path] | None = None,
) -> list[int]:
    """Which inputs to work on, given all files that each will write, its record last.

    Args:
        skip: why what is there is not the answer to an input, as :func:`unlike`, to leave out those that are done.
        resume: pictures without a record were left by a killed run.
        recorded: records that are in one file.

    Raises:
        UsageError: a file is there, and nothing says that it may be replaced; or two inputs would write the same one.
    """
    names = [str(file).casefold() for own in files for file in own]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UsageError(f"two inputs would write {twice}", "rename one")
    again = []
    for i, own in enumerate(files):
        # a link into nothing is somebody's too
        there = [] if overwrite else [file for file in own if os.path.lexists(file)]
        there += [own[-1]] if not overwrite and recorded is not None and own[-1] in recorded else []
        why, lost = skip(i) if skip and own[-1] in there else ("", False)
        if own[-1] in there and skip and not why:
            continue
        if there and not lost and not (resume and own[-1] not in there):
            if why:
                raise UsageError(f"{there[0]} exists, and {why}", "--overwrite, or another --out")
            raise UsageError(f"{there[0]} exists", "--overwrite, --skip-existing, or another --out")
        again.append(i)
    return again


def rerun(
    context: typer.Context,
    record: Annotated[Path, typer.Argument(help="STEM.json of an earlier run.", show_default=False)],
    out: Out = Path("out"),
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Make an answer again from its record: the same files, byte for byte, on the same kind of machine.

    The input and other files are read where they were, so run it in the same folder. It ends with an error if their
    content or the weights have changed, and warns of another version, and of files that came out different.
    """
    before = read(record)
    task = str(before.get("task"))
    assert context.parent is not None, "it is a command of the app"
    command = context.parent.command.get_command(context.parent, task)  # type: ignore[attr-defined]
    if command is None:
        raise UsageError(f"there is no command {task!r}", "install the plugin that brings it: see `basis plugins list`")
    _check_unchanged(record, before)
    settings, form = before["settings"], {".jpg": "jpeg", ".tif": "tiff"}.get(before["format"], before["format"][1:])
    words = [*before["options"], "--device", settings["device"], "--dtype", settings["dtype"], "--format", form]
    words += ["--out", str(out), *["--overwrite"] * overwrite, *["--json"] * as_json, *["--quiet"] * quiet]
    with command.make_context(
        task, [*words, "--", before["input"], *before.get("together_with", [])], parent=context.parent, obj=before
    ) as again:
        command.invoke(again)


def _check_unchanged(record: Path, before: Mapping[str, Any]) -> None:
    """Raise an error if a file that the record names, or the weights, have changed; warn of another version."""
    from ..plugins import posterior_spec, prior_spec

    if before["input"] == "-":
        again = shlex.join(["basis", before["task"], *before["options"], "-"])
        raise InputError(f"the input of {record} was read from standard input", f"{again} < FILE")
    names = {name: sha256 for name, sha256 in before["inputs_sha256"].items() if sha256}
    for name, now in contents(list(names)).items():
        if now != names[name]:
            reason = "has changed since" if now else "is not there"
            raise InputError(f"{record} cannot be made again: {name} {reason}", f"its SHA-256 was {names[name]}")
    named = "--weights" in before["options"]  # a file of the user's own, which is among the inputs
    stored = [name for name in before["weights_sha256"] if not (named and name == before.get("model", name))]
    by = {name: posterior_spec(name) if name == before.get("model") else prior_spec(name) for name in stored}
    for name, now in weights_sha256(by, None).items():
        if now != before["weights_sha256"][name]:
            hint = f"their SHA-256 was {before['weights_sha256'][name]}"
            raise WeightsError(f"{record} cannot be made again: the weights of {name} have changed since", hint)
    if before["basis"] != __version__:
        message = f"{record} was made by version {before['basis']}, and this is {__version__}"
        warnings.warn(message, RunWarning, stacklevel=2)


def compare(before: Mapping[str, Any], now: Mapping[str, Any], quiet: bool) -> None:
    """Say whether an answer that was made again is the same, byte for byte, and if not, what was done differently."""
    was, files = (list(each["files_sha256"].values()) for each in (before, now))
    if was == files:
        if not quiet:
            stderr.print("the same files, byte for byte")
        return
    settings = {**before["settings"], **now["settings"]}
    changed = [name for name in settings if before["settings"].get(name) != now["settings"].get(name)]
    because = f": other {', '.join(changed)}" if changed else ", as on another machine"
    warnings.warn(f"the files are not the same, byte for byte{because}", RunWarning, stacklevel=2)
