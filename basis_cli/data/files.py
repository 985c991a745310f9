"""Files written whole or not at all, by one run at a time."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import platformdirs

from ..errors import BasisError

try:
    import fcntl
except ImportError:  # Windows: runs are not kept apart
    fcntl = None  # type: ignore[assignment]

MANY = 1000
NAMES = 28
"""Bits of a name's place among the locks, and of a folder's."""
LONGEST_NAME = 255
"""Bytes, as nearly all file systems have it."""
HINTS = {
    "ENOSPC": "free some space, or write to another folder",
    "EDQUOT": "free some space, or write to another folder",
    "EACCES": "check the permissions, or write to another folder",
    "EPERM": "check the permissions, or write to another folder",
    "EROFS": "it is read-only: write to another folder",
    "ENAMETOOLONG": "choose a shorter name",
    "EISDIR": "a folder has this name",
    "ENOENT": "is its folder gone?",
    "ENOTDIR": "a file has the name of its folder",
    "EIO": "check the disk",
}


def unwritable(path: Path, error: OSError) -> BasisError:
    """What to say of a file or folder that cannot be written."""
    hint = HINTS.get(errno.errorcode.get(error.errno or 0, ""), "write to another folder")
    return BasisError(f"cannot write {path}: {error.strerror or error}", hint)


def partial_name(name: str) -> str:
    """A name for what becomes the file ``name``; no other is ever called so."""
    return f"{name}.{secrets.token_hex(4)}.partial"


@contextmanager
def atomically(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that becomes ``path`` only when the block succeeds.

    Raises:
        BasisError: the block or the renaming met an ``OSError``: disk full, no permission, no such folder.
    """
    partial = path.with_name(partial_name(path.name))
    try:
        yield partial
        os.replace(partial, path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        with suppress(OSError):
            partial.unlink()


@contextmanager
def claimed(folder: Path, names: Iterable[str], waiting: Callable[[str], None]) -> Iterator[None]:
    """Keep other runs of this user from working on ``names`` in ``folder`` at the same time: they wait.

    ``waiting`` is called with the first name that another run is at work on. More than :data:`MANY` names are the whole
    folder, for the time that a lock takes grows with their number. Nothing is locked on Windows, or where the user's
    cache folder cannot be written.
    """
    lock = _lock() if fcntl else None
    try:
        if lock is not None:
            _claim(lock, folder, names, waiting)
        yield
    finally:
        if lock is not None:
            os.close(lock)  # gives back all that is claimed, as the end of the process does


def _lock() -> int | None:
    """One file for all folders: each has a range of it, far behind its end, and each name in it is a byte of that."""
    path = platformdirs.user_cache_path("basis") / "lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError:
        return None


def _claim(lock: int, folder: Path, names: Iterable[str], waiting: Callable[[str], None]) -> None:
    begin = _hash(os.path.realpath(folder)) << NAMES
    places = {begin + _hash(name): name for name in names}
    length = 1
    if len(places) > MANY:
        places, length = {begin: next(iter(places.values()))}, 1 << NAMES
    for place in sorted(places):  # all in one order, so that no two runs wait for each other
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB, length, place)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):  # a file system without locks
                return
            waiting(places[place])
            waiting = _said
            fcntl.lockf(lock, fcntl.LOCK_EX, length, place)


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:8], "big") % (1 << NAMES)


def _said(name: str) -> None:
    """Once is enough."""


def remove_partial(files: Iterable[Path]) -> None:
    """Remove what a killed run left half written of ``files``, which this run has claimed."""
    names: dict[Path, set[str]] = {}
    for file in files:
        names.setdefault(file.parent, set()).add(file.name)
    for folder, own in names.items():
        for path in folder.glob("*.partial"):
            if path.name.rsplit(".", 2)[0] in own:
                with suppress(OSError):
                    path.unlink()
